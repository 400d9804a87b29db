//! Writes the data of `manifests/quickstart.toml`: small financial tables and questions in TAT-QA's JSON schema.
//!
//! ```text
//! make-quickstart data/quickstart      # train.json and eval.json, the committed sample
//! make-quickstart --base DIR           # the much larger set that trains the tiny base model
//! ```
//!
//! The same command writes the same bytes on every machine: chance comes from [`SplitMix64`] with fixed seeds alone.
//! No context (table and texts) occurs twice, within a set or across the four; that is checked by content. So a model
//! that answers the eval questions has read the table in front of it.
//!
//! Unaware of tokenizers and models; but a model of half a million weights shall learn the task in minutes on two CPU
//! cores, which explains the choices. Words are few and frequent, so that each is a token. Figures have two digits,
//! because each digit is copied on its own. Rows and columns have fixed roles (an item, the rest, the total; this year,
//! last year), since finding a row by a label that was never seen in that place needs far more training than finding
//! the row of a role. The scale stands in the table's corner, never in the question, so it must be read as well.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own, not a part of anneal")]

use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;

/// Labels of the first row.
const ITEMS: [&str; 23] = [
    "Net sales",
    "Operating costs",
    "Gross profit",
    "Income taxes",
    "Free cash",
    "Office rent",
    "Staff wages",
    "Fixed assets",
    "Bank loans",
    "Green bonds",
    "Service fees",
    "State grants",
    "Acquired goodwill",
    "Average inventory",
    "Common equity",
    "Paid interest",
    "Final dividends",
    "Company pensions",
    "Car leases",
    "Own software",
    "Online marketing",
    "Basic research",
    "Sea freight",
];

/// The table's corner cell, and the scale that its figures have.
const UNITS: [(&str, &str); 4] = [
    ("(in thousands)", "thousand"),
    ("(in millions)", "million"),
    ("(in billions)", "billion"),
    ("(in percent)", "percent"),
];

/// A cause is an adjective and a noun, so that 100 causes need 20 words.
const HOW: [&str; 10] = ["strong", "weak", "new", "old", "lower", "higher", "rapid", "slow", "early", "late"];
const WHAT: [&str; 10] =
    ["demand", "prices", "contracts", "orders", "rates", "exports", "imports", "mergers", "payments", "deliveries"];

/// Things that the second paragraph counts.
const PLACES: [&str; 8] = ["stores", "offices", "plants", "banks", "ships", "hotels", "farms", "mines"];

/// How the base model's longer answers begin.
const LEADS: [&str; 4] = ["It was ", "The answer is ", "The report shows: ", "The text says that it is "];

const YEARS: [&str; 2] = ["2019", "2018"];

/// SplitMix64 (Steele, Lea and Flood 2014): a counter and a mixing function, the same everywhere.
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

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// `k` different members of `all` in random order: the first steps of a Fisher-Yates shuffle.
    fn some<T: Copy>(&mut self, all: &[T], k: usize) -> Vec<T> {
        let mut pool = all.to_vec();
        for i in 0..k {
            let j = i + self.below(pool.len() - i);
            pool.swap(i, j);
        }
        pool.truncate(k);
        pool
    }
}

/// A question without its uid; `paragraph` holds the answer, or the table does.
struct Question {
    text: String,
    answer: Vec<String>,
    scale: &'static str,
    paragraph: Option<u32>,
}

/// One file: how many contexts, and the seed of its own stream of numbers.
struct Set {
    base: bool,
    split: &'static str,
    seed: u64,
    contexts: usize,
}

const SETS: [Set; 4] = [
    Set { base: false, split: "train", seed: 1, contexts: 50 },
    Set { base: false, split: "eval", seed: 2, contexts: 25 },
    Set { base: true, split: "train", seed: 3, contexts: 8_000 },
    Set { base: true, split: "eval", seed: 4, contexts: 40 },
];

/// A table, two texts and six questions, as a TAT-QA entry; `id` is unique over all sets.
fn entry(rng: &mut SplitMix64, id: &str, base: bool) -> Value {
    let (unit, scale) = rng.one(&UNITS);
    let item = rng.one(&ITEMS);
    let part = |rng: &mut SplitMix64| [10 + rng.below(40), 10 + rng.below(40)];
    let (first, other) = (part(rng), part(rng));
    let figures = [first, other, [first[0] + other[0], first[1] + other[1]]].map(|row| row.map(|f| f.to_string()));
    let row = |label: &str, cells: &[String; 2]| vec![label.to_owned(), cells[0].clone(), cells[1].clone()];
    let table = vec![
        row(unit, &YEARS.map(str::to_owned)),
        row(item, &figures[0]),
        row("Other", &figures[1]),
        row("Total", &figures[2]),
    ];
    let cause = format!("{} {}", rng.one(&HOW), rng.one(&WHAT));
    let (count, places) = ((10 + rng.below(90)).to_string(), rng.one(&PLACES));
    let texts = [format!("{item} changed because of {cause}."), format!("The group had {count} {places}.")];

    let of_table = |text, answer| Question { text, answer, scale, paragraph: None };
    let cells: Vec<(usize, usize)> = (0..3).flat_map(|row| (0..2).map(move |column| (row, column))).collect();
    let mut questions: Vec<Question> = rng
        .some(&cells, 3)
        .into_iter()
        .map(|(row, column)| {
            let what = [format!("the amount of {item}"), "the other amount".into(), "the total".into()];
            let text = format!("What was {} in {}?", what[row], YEARS[column]);
            of_table(text, vec![figures[row][column].clone()])
        })
        .collect();
    let row = rng.below(3);
    let what = [format!("the amounts of {item}"), "the other amounts".into(), "the totals".into()];
    let text = format!("What were {} in {} and {}?", what[row], YEARS[0], YEARS[1]);
    questions.push(of_table(text, figures[row].to_vec()));
    let of_text = |text, answer, paragraph| Question { text, answer: vec![answer], scale: "", paragraph };
    questions.push(of_text(format!("What caused the change in {item}?"), cause, Some(1)));
    questions.push(of_text(format!("How many {places} did the group have?"), count, Some(2)));

    if base {
        // Two thirds of the base's answers begin with other words, so that a figure is not always the first:
        // fine-tuning then puts it behind other words without teaching reading again.
        for question in &mut questions {
            if rng.below(3) > 0 {
                question.text = format!("In a sentence: {}", question.text);
                question.answer[0].insert_str(0, rng.one(&LEADS));
            }
        }
    }
    let questions: Vec<Value> = questions.iter().enumerate().map(|(n, q)| question_json(id, n + 1, q)).collect();
    let paragraphs: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| json!({ "uid": format!("{id}-p{}", n + 1), "order": n + 1, "text": text }))
        .collect();
    json!({ "table": { "uid": format!("{id}-t"), "table": table }, "paragraphs": paragraphs, "questions": questions })
}

fn question_json(id: &str, order: usize, question: &Question) -> Value {
    json!({
        "uid": format!("{id}-q{order}"),
        "order": order,
        "question": question.text,
        "answer": question.answer,
        "derivation": "",
        "answer_type": if question.answer.len() == 1 { "span" } else { "multi-span" },
        "answer_from": if question.paragraph.is_none() { "table" } else { "text" },
        "rel_paragraphs": question.paragraph.iter().map(u32::to_string).collect::<Vec<_>>(),
        "req_comparison": false,
        "scale": question.scale,
    })
}

/// All entries of a set. `seen` holds the contexts of the sets before it; a context met again is drawn anew.
fn entries(set: &Set, seen: &mut HashSet<String>) -> Vec<Value> {
    let mut rng = SplitMix64(set.seed << 32);
    let mut out = Vec::with_capacity(set.contexts);
    let family = if set.base { "base" } else { "quickstart" };
    while out.len() < set.contexts {
        let entry = entry(&mut rng, &format!("{family}-{}-{:04}", set.split, out.len() + 1), set.base);
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
        if set.base != base {
            continue;
        }
        let path = Path::new(dir).join(format!("{}.json", set.split));
        let lines: Vec<String> = entries.iter().map(Value::to_string).collect();
        let written =
            std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n"))));
        if let Err(error) = written {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("{}: {} contexts, {} questions", path.display(), entries.len(), 6 * entries.len());
    }
    ExitCode::SUCCESS
}
