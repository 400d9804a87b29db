//! How the official TAT-QA metric brings two answers into a comparable form, and compares them.
//! Unaware of questions and files.

use std::collections::HashSet;

use super::number::{Edition, decimals, four_decimals, is_number, is_space, to_number};

/// All items of an answer as one string, sorted, with numbers brought to one scale and four decimals. TAT-LLM's edition
/// knows small letters only.
pub(super) fn answer_text(items: &[String], scale: &str, edition: Edition) -> String {
    let cased = |item: &String| if edition == Edition::TatLlm { item.to_lowercase() } else { item.clone() };
    let mut sorted: Vec<String> = items.iter().map(cased).collect();
    // UTF-8 sorts by code point, as Python does.
    sorted.sort();
    let parts: Vec<String> = sorted.iter().map(|item| item_text(item, scale, edition)).collect();
    parts.join(" ")
}

fn item_text(item: &str, scale: &str, edition: Edition) -> String {
    match to_number(item, edition).filter(|_| is_number(item)) {
        // A percent sign has already divided the number by 100, so the scale says nothing new.
        Some(number) if item.contains('%') => decimals(&number),
        Some(number) => four_decimals(number, scale),
        None if scale.is_empty() => item.to_owned(),
        None => format!("{item} {scale}"),
    }
}

/// The second reading of a lone unscaled number: as it stands, so that 0.1214 also matches 12.14 percent.
pub(super) fn unscaled_text(items: &[String], scale: &str) -> Option<String> {
    match items {
        [item] if scale.is_empty() && !item.contains('%') && is_number(item) => {
            to_number(item, Edition::Official).map(|n| decimals(&n))
        }
        _ => None,
    }
}

/// Lower case, without punctuation and articles, numbers in one form, single spaces.
pub(super) fn normalized(text: &str, edition: Edition) -> String {
    let mut out = String::with_capacity(text.len());
    for token in text.split(' ') {
        for word in without_articles(&bare_token(&token.to_lowercase(), edition)).split(is_space) {
            if !word.is_empty() {
                if !out.is_empty() {
                    out.push(' ');
                }
                out.push_str(word);
            }
        }
    }
    out
}

/// A token without punctuation, unless it is a number; and a number in its printed form.
fn bare_token(token: &str, edition: Edition) -> String {
    // "infinity" is a number that holds no digits: the official code prints None for it.
    let printed = |text: &str| to_number(text, edition).map_or_else(|| "None".to_owned(), |number| number.to_string());
    if is_number(token) {
        return printed(token);
    }
    let bare: String = token.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    if bare.len() < token.len() && is_number(&bare) { printed(&bare) } else { bare }
}

/// Every whole word "a", "an" or "the" replaced by a space. Words are runs of letters, digits and underscores.
fn without_articles(token: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(token.len());
    let mut rest = token;
    while let Some(first) = rest.chars().next() {
        let kind = is_word(first);
        let end = rest.find(|c| is_word(c) != kind).unwrap_or(rest.len());
        let (run, tail) = rest.split_at(end);
        out.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = tail;
    }
    out
}

/// Exact match and F1 of two answers in the form of [`answer_text`].
pub(super) fn compare(predicted: &str, gold: &str, edition: Edition) -> (f64, f64) {
    let (predicted, gold) = (normalized(predicted, edition), normalized(gold, edition));
    if predicted == gold {
        return (1.0, 1.0);
    }
    // Normalized words are parted by single spaces.
    let bag = |text| -> HashSet<&str> { str::split(text, ' ').filter(|word| !word.is_empty()).collect() };
    (0.0, f1(&bag(predicted.as_str()), &bag(gold.as_str())))
}

/// 2PR / (P + R) over sets of words, rounded to two decimals; an empty side has precision or recall 1.
fn f1(predicted: &HashSet<&str>, gold: &HashSet<&str>) -> f64 {
    let share = |common: usize, all: usize| if all == 0 { 1.0 } else { as_f64(common) / as_f64(all) };
    let common = predicted.intersection(gold).count();
    let (precision, recall) = (share(common, predicted.len()), share(common, gold.len()));
    if precision == 0.0 && recall == 0.0 {
        return 0.0;
    }
    // As numpy rounds: 0.025 becomes 0.02, where Python's own round() gives 0.03.
    let f1 = 2.0 * precision * recall / (precision + recall);
    (f1 * 100.0).round_ties_even() / 100.0
}

#[expect(clippy::cast_precision_loss, reason = "counts of words and questions are far below 2^52")]
pub(super) fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::data_dir;
    use crate::metric::number::{Factor, scale_factor};
    use serde_json::Value;

    #[test]
    fn normalizes_as_the_official_code_does() {
        for (text, expected) in [
            ("The Fixed-Price type", "fixedprice type"),
            ("  a  An  the ", ""),
            ("the\u{2019}s x", "\u{2019}s x"),
            ("a_b the_c", "ab thec"),
            ("(1-2) $5,000.00", "12 5000.0"),
            ("Infinity", "None"),
        ] {
            assert_eq!(normalized(text, Edition::Official), expected, "{text}");
        }
    }

    #[test]
    fn agrees_with_every_call_of_the_unit_oracle() {
        let Some(data) = data_dir() else { return };
        let text = std::fs::read_to_string(data.join("eval_oracle/unit_oracle.json")).unwrap();
        let oracle: Value = serde_json::from_str(&text).unwrap();
        let mut calls = 0;
        for row in oracle["functions"].as_array().unwrap() {
            let s = row["s"].as_str().unwrap();
            assert_eq!(is_number(s), row["is_number"].as_bool().unwrap(), "is_number {s:?}");
            let number = row["to_number"].as_number().map(ToString::to_string);
            assert_eq!(to_number(s, Edition::Official).map(|n| json_text(&n)), number, "to_number {s:?}");
            assert_eq!(normalized(s, Edition::Official), row["normalize"].as_str().unwrap(), "normalize {s:?}");
            let factor = match row["scale"].as_f64().unwrap() {
                1.0 => Factor::One,
                0.01 => Factor::Percent,
                value => Factor::Power(value.log10().round() as usize),
            };
            assert_eq!(scale_factor(s), factor, "scale {s:?}");
            for (scale, texts) in row["answer_str"].as_object().unwrap() {
                assert_eq!(
                    answer_text(&[s.to_owned()], scale, Edition::Official),
                    texts[0].as_str().unwrap(),
                    "{s:?} {scale}"
                );
            }
            calls += 1;
        }
        for row in oracle["get_metrics"].as_array().unwrap() {
            let side = |key: &str| -> Vec<String> { serde_json::from_value(row[key].clone()).unwrap() };
            let (predicted, gold) = (side("pred"), side("gold"));
            if let ([predicted], [gold]) = (predicted.as_slice(), gold.as_slice()) {
                let expected = (row["em"].as_f64().unwrap(), row["f1"].as_f64().unwrap());
                assert_eq!(compare(predicted, gold, Edition::Official), expected, "{predicted:?} {gold:?}");
                calls += 1;
            }
        }
        assert!(calls > 2000, "only {calls} calls");
    }

    fn json_text(number: &crate::data::number::Number) -> String {
        serde_json::to_string(number).unwrap()
    }
}
