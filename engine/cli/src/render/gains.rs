//! What a second model answers rightly and a first does not, and the reverse: how many, how sure, and which.
//!
//! Unaware of where answers come from.
use super::answers::Look;
use super::text::{clean, cut, pad};
use anneal_stages::evaluate::p_text;
use anneal_stages::metric::Metric;
use anneal_stages::review::{Difference, Pair};

/// The whole as text.
pub(crate) fn text(found: &Difference, metric: Metric, tat_qa: bool, look: &Look) -> String {
    let comparison = &found.comparison;
    let (first, second) = (clean(&comparison.first), clean(&comparison.second));
    let by = match (tat_qa, metric) {
        (true, Metric::Official) => "exact match by the official TAT-QA metric",
        (true, Metric::TatLlm) => "exact match by TAT-LLM's lenient metric",
        (false, _) => "exact match of words",
    };
    let mut text = look.bold(&format!("{second} against {first}"));
    text += &format!(", {} questions, {by}\n\n", comparison.questions);
    for (count, what) in [
        (comparison.gained, format!("gained: right by {second} only")),
        (comparison.lost, format!("lost: right by {first} only")),
        (found.both_right, "right by both".to_owned()),
        (found.neither, "right by neither".to_owned()),
    ] {
        text += &format!("{count:>6}  {what}\n");
    }
    text += &format!("\nEM {}\nF1 {}\n", comparison.em, comparison.f1);
    text += &format!("McNemar's exact test: {}\n", p_text(comparison.mcnemar_p));
    if found.unpaired > 0 {
        text += &format!("{} answers of one model alone were left out\n", found.unpaired);
    }
    for (title, samples) in [("gained", &found.gained_samples), ("lost", &found.lost_samples)] {
        if !samples.is_empty() {
            text += &format!("\n{}\n", look.bold(&format!("{title} ({})", samples.len())));
            samples.iter().for_each(|pair| text += &row(pair, &first, &second, look));
        }
    }
    text
}

/// A sample in a line, and what was said below it in three columns.
fn row(pair: &Pair, first: &str, second: &str, look: &Look) -> String {
    let head = format!("sid {} · uid {} · {}", pair.sid, clean(&pair.uid), clean(&pair.question));
    let mut text = format!("\n{}\n", cut(&head, look.width));
    let names = ["sample answer", first, second];
    let label = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(24);
    for (name, said) in names.into_iter().zip([&pair.sample_answer, &pair.first, &pair.second]) {
        let said = cut(&clean(said), look.width.saturating_sub(label + 4));
        text += format!("  {}  {said}", pad(&cut(name, label), label)).trim_end();
        text.push('\n');
    }
    text
}
