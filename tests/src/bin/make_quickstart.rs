//! Writes the data of `manifests/quickstart.toml`: small financial tables and questions in TAT-QA's JSON schema.
//!
//! ```text
//! make-quickstart data/quickstart      # train.json and eval.json, the committed sample
//! make-quickstart --base DIR           # the much larger set that trains the tiny base model
//! ```
//!
//! The same command writes the same bytes on every machine: the only source of chance is [`SplitMix64`] with fixed
//! seeds. No context (table and texts) occurs twice, neither inside a set nor across the four sets; that is checked by
//! content, not hoped for. So a model that answers the quickstart's eval questions has read the table in front of it.
//!
//! This program is unaware of tokenizers, templates and models. It only knows that a model of about a million weights
//! shall learn the task in minutes on two CPU cores, which explains its choices:
//! - every word is one frequent word, so a small vocabulary makes it one token: an item is then found by one match;
//! - figures have two digits, because each digit is a token that has to be copied on its own;
//! - the scale stands in the table's corner cell, never in the question: it must be read as well;
//! - a share of the questions asks for a whole row, which labels several cells of one table and so teaches reading
//!   faster than single cells do.

use serde_json::{json, Value};
use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;

/// Row labels. One word each; see the module's notes.
const ITEMS: [&str; 24] = [
    "Net sales", "Operating costs", "Gross profit", "Income taxes", "Free cash",
    "Total debt", "Office rent", "Staff wages", "Fixed assets", "Bank loans",
    "Green bonds", "Service fees", "State grants", "Acquired goodwill", "Average inventory",
    "Common equity", "Paid interest", "Final dividends", "Company pensions", "Car leases",
    "Own software", "Online marketing", "Basic research", "Sea freight",
];

/// The table's corner cell, and the scale that its figures have.
const UNITS: [(&str, &str); 4] =
    [("(in thousands)", "thousand"), ("(in millions)", "million"), ("(in billions)", "billion"), ("(in percent)", "percent")];

/// A cause is an adjective and a noun, so that 100 causes need 20 words.
const HOW: [&str; 10] = ["strong", "weak", "new", "old", "lower", "higher", "rapid", "slow", "early", "late"];
const WHAT: [&str; 10] =
    ["demand", "prices", "contracts", "orders", "rates", "exports", "imports", "mergers", "payments", "deliveries"];

/// Things that the second paragraph counts.
const PLACES: [&str; 8] = ["stores", "offices", "plants", "banks", "ships", "hotels", "farms", "mines"];

/// Steele, Lea and Flood's SplitMix64: a counter and a mixing function. Eight lines, and the same everywhere.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`: the high half of a 128-bit product, whose bias (n / 2^64) does not matter here.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// `k` different members of `all`, in random order: the first `k` steps of a Fisher-Yates shuffle.
    fn choose<T: Copy>(&mut self, all: &[T], k: usize) -> Vec<T> {
        let mut pool = all.to_vec();
        for i in 0..k {
            let j = i + self.below(pool.len() - i);
            pool.swap(i, j);
        }
        pool.truncate(k);
        pool
    }
}

/// One question before it gets its uid: text, answer, scale, and the order of the paragraph that holds the answer
/// (none: the table holds it).
struct Question {
    text: String,
    answer: Vec<String>,
    scale: &'static str,
    paragraph: Option<u32>,
}

/// What a set is for.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The quickstart itself.
    Quickstart,
    /// The base model's first lesson: long answers that name each row before its figure, in an order that is asked for.
    Drill,
    /// The base model's second lesson: every kind of question.
    Mixed,
}

/// One of the sets: how many contexts, and the seed of its own stream of numbers.
struct Set {
    file: &'static str,
    kind: Kind,
    seed: u64,
    contexts: usize,
}

const SETS: [Set; 6] = [
    Set { file: "train", kind: Kind::Quickstart, seed: 1, contexts: 50 },
    Set { file: "eval", kind: Kind::Quickstart, seed: 2, contexts: 25 },
    Set { file: "drill/train", kind: Kind::Drill, seed: 3, contexts: 24_000 },
    Set { file: "drill/eval", kind: Kind::Drill, seed: 4, contexts: 100 },
    Set { file: "mixed/train", kind: Kind::Mixed, seed: 5, contexts: 10_000 },
    Set { file: "mixed/eval", kind: Kind::Mixed, seed: 6, contexts: 60 },
];

/// A context and its questions, as a TAT-QA entry. `id` is unique over all sets.
fn entry(rng: &mut SplitMix64, id: &str, kind: Kind) -> Value {
    let e = |k: &str, d: usize| std::env::var(k).ok().map_or(d, |v| v.parse().unwrap());
    let (lo, hi) = (10, 99);
    let (rmin, rmax, cmax) = if kind == Kind::Drill { (3, 6, 1) } else { (e("RMIN", 2), e("RMAX", 4), e("CMAX", 2)) };
    let figure = |rng: &mut SplitMix64| (lo + rng.below(hi - lo + 1)).to_string();
    let (unit, scale) = UNITS[rng.below(UNITS.len())];
    let n_rows = rmin + rng.below(rmax - rmin + 1);
    let items = rng.choose(&ITEMS, n_rows);
    // Columns are consecutive years, the latest first, as annual reports print them.
    let latest = 2013 + rng.below(7);
    let n_cols = 1 + rng.below(cmax);
    let years: Vec<String> = (0..n_cols).map(|back| (latest - back).to_string()).collect();
    let rows: Vec<Vec<String>> = items.iter().map(|_| years.iter().map(|_| figure(rng)).collect()).collect();

    let mut table = vec![std::iter::once(unit.to_string()).chain(years.iter().cloned()).collect::<Vec<_>>()];
    table.extend(items.iter().zip(&rows).map(|(item, row)| {
        std::iter::once(item.to_string()).chain(row.iter().cloned()).collect()
    }));

    let explained = rng.choose(&items, 2);
    let how = rng.choose(&HOW, 2);
    let what = rng.choose(&WHAT, 2);
    let places = rng.choose(&PLACES, 2);
    let causes = [0, 1].map(|i| format!("the {} {}", how[i], what[i]));
    let counts = [figure(rng), figure(rng)];
    let paragraphs = [
        format!(
            "{} changed because of {}. {} changed because of {}.",
            explained[0], causes[0], explained[1], causes[1]
        ),
        format!("Its {} numbered {} and its {} numbered {}.", places[0], counts[0], places[1], counts[1]),
    ];

    let span = |text: String, answer: Vec<String>, scale, paragraph| Question { text, answer, scale, paragraph };
    let mut questions = Vec::new();
    let order = |rng: &mut SplitMix64, n: usize, k: usize| rng.choose(&(0..n).collect::<Vec<_>>(), k);
    let names = |asked: &[usize], of: &[&str]| asked.iter().map(|&i| of[i]).collect::<Vec<_>>().join(" and ");
    if kind == Kind::Drill {
        for _ in 0..2 {
            let asked = order(rng, n_rows, n_rows);
            let answer = asked.iter().flat_map(|&r| table[r + 1].clone()).collect();
            questions.push(span(format!("What does the table show for {}?", names(&asked, &items)), answer, scale, None));
        }
    } else {
        if kind == Kind::Mixed {
            let k = 1 + rng.below(n_rows);
            let asked = order(rng, n_rows, k);
            let answer = asked.iter().flat_map(|&r| table[r + 1].clone()).collect();
            questions.push(span(format!("What does the table show for {}?", names(&asked, &items)), answer, scale, None));
            let k = 1 + rng.below(2);
            let asked = order(rng, 2, k);
            let answer = asked.iter().flat_map(|&i| [explained[i].to_string(), causes[i].clone()]).collect();
            questions.push(span(format!("What does the text say about {}?", names(&asked, &explained)), answer, "", Some(1)));
            let k = 1 + rng.below(2);
            let asked = order(rng, 2, k);
            let answer = asked.iter().flat_map(|&i| [places[i].to_string(), counts[i].clone()]).collect();
            questions.push(span(format!("What does the text say about {}?", names(&asked, &places)), answer, "", Some(2)));
        }
        // In the base set half of these are answered with a sentence, so that a figure is not always the answer's
        // first word: fine-tuning then moves it behind other words without having to teach reading again.
        let ask = |rng: &mut SplitMix64, text: String, start: &str, answer: String, scale, paragraph| {
            if kind == Kind::Mixed && rng.below(2) == 0 {
                span(format!("Say in a sentence: {text}"), vec![format!("{start} {answer}")], scale, paragraph)
            } else {
                span(text, vec![answer], scale, paragraph)
            }
        };
        let cells: Vec<(usize, usize)> = (0..n_rows).flat_map(|r| (0..n_cols).map(move |c| (r, c))).collect();
        for (r, c) in rng.choose(&cells, (if kind == Kind::Mixed { 2 } else { 3 }).min(cells.len())) {
            let text = format!("What was the amount of {} in {}?", items[r], years[c]);
            questions.push(ask(rng, text, "The amount was", rows[r][c].clone(), scale, None));
        }
        if n_cols > 1 {
            let r = rng.below(n_rows);
            let text = format!("What were the amounts of {} in {}?", items[r], years.join(" and "));
            questions.push(span(text, rows[r].clone(), scale, None));
        }
        let i = rng.below(2);
        let text = format!("What caused the change in {}?", explained[i]);
        questions.push(ask(rng, text, "The cause was", causes[i].clone(), "", Some(1)));
        let i = rng.below(2);
        let text = format!("How many {} did the group have?", places[i]);
        questions.push(ask(rng, text, "The number was", counts[i].clone(), "", Some(2)));
    }

    let questions: Vec<Value> = questions
        .into_iter()
        .enumerate()
        .map(|(n, q)| {
            json!({
                "uid": format!("{id}-q{}", n + 1),
                "order": n + 1,
                "question": q.text,
                "answer": q.answer,
                "derivation": "",
                "answer_type": if q.answer.len() == 1 { "span" } else { "multi-span" },
                "answer_from": if q.paragraph.is_none() { "table" } else { "text" },
                "rel_paragraphs": q.paragraph.iter().map(u32::to_string).collect::<Vec<_>>(),
                "req_comparison": false,
                "scale": q.scale,
            })
        })
        .collect();
    let paragraphs: Vec<Value> = paragraphs
        .iter()
        .take(if kind == Kind::Drill { 0 } else { 2 })
        .enumerate()
        .map(|(n, text)| json!({ "uid": format!("{id}-p{}", n + 1), "order": n + 1, "text": text }))
        .collect();
    json!({ "table": { "uid": format!("{id}-t"), "table": table }, "paragraphs": paragraphs, "questions": questions })
}

/// All entries of a set. `seen` holds the contexts of the sets made before it; a context met again is drawn anew.
fn entries(set: &Set, seen: &mut HashSet<String>) -> Vec<Value> {
    let mut rng = SplitMix64(set.seed << 32);
    let mut out = Vec::with_capacity(set.contexts);
    while out.len() < set.contexts {
        let entry = entry(&mut rng, &format!("{}-{:05}", set.file.replace('/', "-"), out.len() + 1), set.kind);
        let texts: Vec<&Value> = entry["paragraphs"].as_array().into_iter().flatten().map(|p| &p["text"]).collect();
        if seen.insert(json!([entry["table"]["table"], texts]).to_string()) {
            out.push(entry);
        }
    }
    out
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (base, dir) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--base", dir] => (true, dir),
        [dir] if !dir.starts_with('-') => (false, dir),
        _ => {
            eprintln!("usage: make-quickstart [--base] DIR");
            return ExitCode::from(2);
        }
    };
    let mut seen = HashSet::new();
    for set in SETS {
        let entries = entries(&set, &mut seen);
        if (set.kind != Kind::Quickstart) != base {
            continue;
        }
        let path = Path::new(dir).join(format!("{}.json", set.file));
        let lines: Vec<String> = entries.iter().map(Value::to_string).collect();
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        let folder = path.parent().unwrap_or(Path::new("."));
        if let Err(error) = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, text)) {
            eprintln!("failed to write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        let questions: usize = entries.iter().map(|e| e["questions"].as_array().map_or(0, Vec::len)).sum();
        println!("{}: {} contexts, {questions} questions", path.display(), entries.len());
    }
    ExitCode::SUCCESS
}
