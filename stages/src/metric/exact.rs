//! Exact match and F1 of free text: the comparison of the official TAT-QA metric without scales and number formats.
//! Case, punctuation, articles and white space do not count. Unaware of data sets.

use serde::Serialize;

use super::normalize::compare;
use super::number::Edition;

/// The score of one answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TextScore {
    /// The question.
    pub uid: String,
    /// 1 or 0.
    pub em: f64,
    /// From 0 to 1, of the sets of words.
    pub f1: f64,
}

/// Scores an answer against its reference; line breaks part words as spaces do.
#[must_use]
pub fn score_text(uid: &str, answer: &str, gold: &str) -> TextScore {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (em, f1) = compare(&flat(answer), &flat(gold), Edition::Official);
    TextScore { uid: uid.to_owned(), em, f1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_count_and_their_dress_does_not() {
        for (answer, gold, em, f1) in [
            ("The cat.", "cat", 1.0, 1.0),
            ("a\n  cat sat", "Cat Sat", 1.0, 1.0),
            ("cat sat", "cat ran", 0.0, 0.5),
            ("", "cat", 0.0, 0.0),
            ("1,000", "1000", 1.0, 1.0),
        ] {
            let score = score_text("u", answer, gold);
            assert_eq!((score.em, score.f1), (em, f1), "{answer} {gold}");
        }
    }
}
