//! Words for messages: lists, ranges, and the name that was probably meant.
//!
//! Unaware of manifests.
use crate::param::Shape;

/// Longer words are no misspelt names, and comparing them would take time that grows with their square.
const LONGEST: usize = 64;

/// The candidate nearest to a word, if it is near enough to have been meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let folded = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .filter_map(|candidate| {
            let other = candidate.to_lowercase().replace('-', "_");
            let initials: String = other.split('_').filter_map(|part| part.chars().next()).collect();
            // `lr` for `learning_rate`.
            let distance =
                if initials.len() > 1 && initials == folded { 0 } else { strsim::damerau_levenshtein(&folded, &other) };
            let allowed = (folded.chars().count().max(other.chars().count()) / 3).max(1);
            (distance <= allowed && distance < other.chars().count()).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or else what there is to choose from.
pub(crate) fn suggest(word: &str, what: &str, candidates: &[&str]) -> Option<String> {
    match nearest(word, candidates.iter().copied()) {
        Some(candidate) => Some(format!("did you mean `{candidate}`?")),
        None if candidates.is_empty() => None,
        None => Some(format!("{what}: {}", list(candidates))),
    }
}

/// "`a`, `b`, `c`", cut after thirty.
pub(crate) fn list(words: &[&str]) -> String {
    let mut text = words.iter().take(30).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    if words.len() > 30 {
        text += &format!(" and {} more", words.len() - 30);
    }
    text
}

/// What a value of a shape is: "an integer from 1 to 1024".
pub fn shape_words(shape: &Shape) -> String {
    match shape {
        Shape::Bool => "`true` or `false`".to_owned(),
        Shape::Int { min, max } => match (*min, *max) {
            (i64::MIN, i64::MAX) => "an integer".to_owned(),
            (min, i64::MAX) => format!("an integer of at least {min}"),
            (min, max) if max == i64::from(u32::MAX) => format!("an integer of at least {min}"),
            (min, max) => format!("an integer from {min} to {max}"),
        },
        Shape::Float { min, max } => match (*min, *max) {
            (f64::MIN, f64::MAX) => "a number".to_owned(),
            (min, f64::MAX) => format!("a number of at least {min}"),
            (min, max) => format!("a number from {min} to {max}"),
        },
        Shape::Text => "text".to_owned(),
        Shape::Choice(words) => {
            format!("one of {}", list(&words.iter().map(|(word, _)| *word).collect::<Vec<_>>()))
        }
        Shape::Path => "the path of a file or folder".to_owned(),
        Shape::List(item) => format!("a list, each item {}", shape_words(item)),
        Shape::Map(item) => format!("a table, each value {}", shape_words(item)),
        Shape::Table(_) => "a table".to_owned(),
    }
}
