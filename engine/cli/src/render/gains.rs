//! What a second model answers rightly and a first does not, and the reverse: how many, how sure, and which.
//!
//! Unaware of where answers come from.
use super::answers::Look;
use super::table;
use super::text::{clean, cut, pad};
use anneal_stages::data::prompt::ResponseForm;
use anneal_stages::evaluate::p_text;
use anneal_stages::metric::Metric;
use anneal_stages::review::{Difference, Kind, Pair, essence};

/// The longest name of a model.
const LABEL: usize = 24;
/// Behind an answer that would be right in the asked form, or not.
const ODD: &str = "  (not in the asked form)";

/// The whole as text; `forms`: those that the two models were asked for, none of free text.
pub(crate) fn text(found: &Difference, metric: Metric, forms: Option<[ResponseForm; 2]>, look: &Look) -> String {
    let comparison = &found.comparison;
    let (first, second) = (clean(&comparison.first), clean(&comparison.second));
    let by = match (forms, metric) {
        (Some(_), Metric::Official) => "exact match by the official TAT-QA metric",
        (Some(_), Metric::TatLlm) => "exact match by TAT-LLM's lenient metric",
        (None, _) => "exact match of words",
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
    if !found.kinds.is_empty() {
        text += &format!("\n{}\n", kinds(found, &first, &second));
    }
    for (title, samples) in [("gained", &found.gained_samples), ("lost", &found.lost_samples)] {
        if !samples.is_empty() {
            text += &format!("\n{}\n", look.bold(&format!("{title} ({})", samples.len())));
            samples.iter().for_each(|pair| text += &row(pair, (&first, &second), forms, look));
        }
    }
    text
}

/// Exact match of both by answer type and source.
fn kinds(found: &Difference, first: &str, second: &str) -> String {
    let head = ["answers".to_owned(), "questions".to_owned(), format!("EM {first}"), format!("EM {second}")];
    let row = |kind: &Kind| {
        let name = format!("{} / {}", word(&kind.answer_type), word(&kind.answer_from));
        vec![name, kind.questions.to_string(), format!("{:.2}", kind.first_em), format!("{:.2}", kind.second_em)]
    };
    table::draw(head.into(), found.kinds.iter().map(row).collect(), 1, table::Look::Text)
}

/// A word of the data format.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A sample in a line, and what was said below it.
fn row(pair: &Pair, (first, second): (&str, &str), forms: Option<[ResponseForm; 2]>, look: &Look) -> String {
    let head = format!("sid {} · uid {} · {}", pair.sid, clean(&pair.uid), clean(&pair.question));
    let mut text = format!("\n{}\n", cut(&head, look.width));
    let names = ["sample answer", first, second];
    let label = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).min(LABEL);
    for (at, (name, said)) in names.into_iter().zip([&pair.sample_answer, &pair.first, &pair.second]).enumerate() {
        // The sample answer is in the first one's form.
        let (said, remark) = match forms.map(|forms| essence(forms[at / 2], said)) {
            Some((said, true)) => (said, ""),
            Some((said, false)) => (said, ODD),
            None => (said.clone(), ""),
        };
        let room = look.width.saturating_sub(label + 4 + remark.chars().count());
        text += format!("  {}  {}{remark}", pad(&cut(name, label), label), cut(&clean(&said), room)).trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anneal_stages::data::tatqa::{AnswerFrom, AnswerType};
    use anneal_stages::evaluate::{Change, Comparison};
    use anneal_stages::metric::statistics::Interval;

    #[test]
    fn counts_come_first_and_then_the_samples() {
        let sentence = |answer: &str, scale: &str| ResponseForm::TatQa.render_answer(&[answer.to_owned()], scale);
        let pair = |sid: u64, first: String, second: String| Pair {
            sid,
            uid: format!("3ffd9053-a45d-491c-957a-1b2fa0af{sid:04}"),
            question: "What was the change in the amount for Appliances in 2019 from 2018?".to_owned(),
            sample_answer: sentence("-94", "million"),
            first,
            second,
        };
        let change = Change { difference: 1.25, interval: Some(Interval { low: -0.5, high: 3.0 }) };
        let found = Difference {
            comparison: Comparison {
                first: "base".to_owned(),
                second: "LoRA".to_owned(),
                questions: 1668,
                em: change,
                f1: Change { difference: -2.0, interval: None },
                gained: 2,
                lost: 1,
                mcnemar_p: 1.0,
            },
            both_right: 65,
            neither: 1600,
            unpaired: 3,
            kinds: vec![Kind {
                answer_type: AnswerType::MultiSpan,
                answer_from: AnswerFrom::TableText,
                questions: 217,
                first_em: 0.5,
                second_em: 21.66,
            }],
            gained_samples: vec![
                pair(7, "-94 million".to_owned(), sentence("-94", "million")),
                pair(100, "It fell by 94.\nThat is ".to_owned() + &"much ".repeat(40), sentence("-94", "million")),
            ],
            lost_samples: vec![pair(900, sentence("-94", "million"), sentence("94", ""))],
        };
        let text = text(&found, Metric::Official, Some([ResponseForm::TatQa; 2]), &Look { width: 80, color: false });
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(text);
    }
}
