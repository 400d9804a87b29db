//! How the official TAT-QA metric reads numbers out of text: "$1,496.5 million", "(94)", "7.9%".
//! Unaware of questions and predictions. The oracle in the tests holds what the official functions answer.

use crate::data::number::{Number, round_to};

/// Two editions of the metric read the same text in details differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edition {
    /// The data set's own evaluator.
    Official,
    /// That of TAT-LLM (Zhu et al. 2024), see `tat_llm`.
    TatLlm,
}

/// A factor by which a number is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Factor {
    One,
    /// Ten to this power (2, 3, 6 or 9); exact on integers.
    Power(usize),
    /// One hundredth, which turns integers into floats.
    Percent,
}

impl Factor {
    fn to_f64(self) -> f64 {
        match self {
            Self::One => 1.0,
            Self::Power(2) => 1e2,
            Self::Power(3) => 1e3,
            Self::Power(6) => 1e6,
            Self::Power(_) => 1e9,
            Self::Percent => 0.01,
        }
    }

    /// `number` times the factor, in Python's arithmetic.
    fn times(self, number: &Number) -> Number {
        match (number, self) {
            (number, Self::One) => number.clone(),
            (Number::Int(digits), Self::Power(zeros)) if digits != "0" => {
                Number::Int(format!("{digits}{}", "0".repeat(zeros)))
            }
            (Number::Int(_), Self::Power(_)) => number.clone(),
            (number, factor) => Number::Float(number.to_f64() * factor.to_f64()),
        }
    }
}

/// The factor that a scale word stands for; the first of the known words that occurs anywhere in it counts.
pub(super) fn scale_factor(scale: &str) -> Factor {
    let scale = scale.to_lowercase();
    let words = [
        ("hundred", Factor::Power(2)),
        ("thousand", Factor::Power(3)),
        ("million", Factor::Power(6)),
        ("billion", Factor::Power(9)),
        ("percent", Factor::Percent),
    ];
    words.iter().find(|(word, _)| scale.contains(word)).map_or(Factor::One, |&(_, factor)| factor)
}

/// Whether a text is a number, possibly followed by a scale word.
pub(super) fn is_number(text: &str) -> bool {
    // Nearly every word ends here: without a digit only "inf" and "infinity" are numbers ("nan" counts as none).
    let bare = |c: &char| !is_space(*c) && !is_symbol(*c) && !matches!(c, '+' | '-');
    if !text.chars().any(|c| digit(c).is_some()) && !matches!(text.chars().find(bare), Some('i' | 'I')) {
        return false;
    }
    let words: Vec<String> = text.split(is_space).map(without_symbols).filter(|word| !word.is_empty()).collect();
    match words.as_slice() {
        [] => false,
        [first, rest @ ..] => {
            python_float(first).is_some_and(|value| !value.is_nan())
                && rest.first().is_none_or(|word| scale_factor(word) != Factor::One)
        }
    }
}

/// The first number in a text, with its glued or following scale word, parentheses as a minus, and percent sign,
/// rounded to four decimals.
pub(super) fn to_number(text: &str, edition: Edition) -> Option<Number> {
    let number = extract(text)?;
    let scaled = glued_scale(text).times(&number);
    let signed = if in_parentheses(text, edition) { negated(scaled) } else { scaled };
    let value = if has_percent(text) { Factor::Percent.times(&signed) } else { signed };
    Some(rounded(value, 4))
}

/// The first number in a text after symbols are deleted: `[+-]?\d+(\.\d+)?`, but nothing if a bare `.5` comes first.
fn extract(text: &str) -> Option<Number> {
    let chars: Vec<char> = without_symbols(text).chars().collect();
    next_number(&chars, 0)?.0
}

/// All numbers in a text, as [`extract`] finds the first.
pub(super) fn all_numbers(text: &str) -> Vec<Number> {
    let chars: Vec<char> = without_symbols(text).chars().collect();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some((number, end)) = next_number(&chars, from) {
        found.extend(number);
        from = end;
    }
    found
}

/// What the pattern finds from `from` on, and where it ends; no number for a bare `.5`, which is found and passed over.
fn next_number(chars: &[char], from: usize) -> Option<(Option<Number>, usize)> {
    let is_digit = |at: usize| chars.get(at).copied().and_then(digit).is_some();
    let is_point = |at: usize| chars.get(at) == Some(&'.');
    let digits_from = |mut at: usize| {
        while is_digit(at) {
            at += 1;
        }
        at
    };
    for start in from..chars.len() {
        let unsigned = start + usize::from(matches!(chars[start], '+' | '-'));
        if is_point(unsigned) && is_digit(unsigned + 1) {
            return Some((None, digits_from(unsigned + 1)));
        }
        if !is_digit(unsigned) {
            continue;
        }
        let mut end = digits_from(unsigned);
        if is_point(end) && is_digit(end + 1) {
            end = digits_from(end + 1);
        }
        let text: String = chars[start..end].iter().map(|&c| digit(c).unwrap_or(c)).collect();
        return Some((Number::parse(&text), end));
    }
    None
}

/// The factor of the first word that follows digits or dots directly or after one space: "5 million", "3x".
fn glued_scale(text: &str) -> Factor {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        if !is_digit_or_dot(chars[at]) {
            at += 1;
            continue;
        }
        while at < chars.len() && is_digit_or_dot(chars[at]) {
            at += 1;
        }
        let word_at = at + usize::from(at < chars.len() && is_space(chars[at]));
        let word: String = chars[word_at..].iter().take_while(|c| c.is_ascii_alphabetic()).collect();
        if !word.is_empty() {
            return scale_factor(&word);
        }
    }
    Factor::One
}

/// Whether some parentheses hold nothing but digits, dots and spaces; in TAT-LLM's edition percent signs too.
fn in_parentheses(text: &str, edition: Edition) -> bool {
    let percent = |c: char| c == '%' && edition == Edition::TatLlm;
    text.split('(').skip(1).any(|inside| {
        let held = inside.find(|c| !(is_digit_or_dot(c) || is_space(c) || percent(c)));
        held.is_some_and(|at| at > 0 && inside[at..].starts_with(')'))
    })
}

/// Whether a percent sign follows a digit, a dot or a space.
fn has_percent(text: &str) -> bool {
    let text = text.trim_matches(is_space);
    text.match_indices('%')
        .any(|(at, _)| text[..at].chars().next_back().is_some_and(|before| is_digit_or_dot(before) || is_space(before)))
}

/// "%.4f" of a number that was read from an answer and is multiplied by the answer's scale.
pub(super) fn four_decimals(number: Number, scale: &str) -> String {
    decimals(&scale_factor(scale).times(&rounded(number, 2)))
}

/// "%.4f" of a number.
pub(super) fn decimals(number: &Number) -> String {
    format!("{:.4}", number.to_f64())
}

fn rounded(number: Number, digits: usize) -> Number {
    match number {
        Number::Float(value) => Number::Float(round_to(value, digits)),
        whole @ Number::Int(_) => whole,
    }
}

fn negated(number: Number) -> Number {
    match number {
        Number::Float(value) => Number::Float(-value),
        Number::Int(digits) => Number::Int(match digits.strip_prefix('-') {
            Some(positive) => positive.to_owned(),
            None if digits == "0" => digits,
            None => format!("-{digits}"),
        }),
    }
}

/// The text without quotes, currency and percent signs, commas, parentheses, brackets and backslashes.
fn without_symbols(text: &str) -> String {
    text.chars().filter(|&c| !is_symbol(c)).collect()
}

fn is_symbol(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\' | '$' | '€' | '£' | '¥' | '%' | '(' | ')' | ',' | '[' | ']')
}

/// Python's `float(text)` for a text without white space: underscores between digits and digits of every script count.
fn python_float(text: &str) -> Option<f64> {
    let mut plain = String::with_capacity(text.len());
    let mut before = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let value = digit(c);
        if c == '_' {
            let between = before.is_some() && chars.peek().copied().and_then(digit).is_some();
            if !between {
                return None;
            }
        } else {
            plain.push(value.unwrap_or(c));
        }
        before = value;
    }
    plain.parse().ok()
}

fn is_digit_or_dot(c: char) -> bool {
    c == '.' || digit(c).is_some()
}

/// Python's white space: Unicode's, and the four separators 0x1c to 0x1f.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The ASCII form of a decimal digit of any script.
fn digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    let code = u32::from(c);
    let zero = ZEROS[..ZEROS.partition_point(|&zero| zero <= code)].last()?;
    char::from_digit(code - zero, 10)
}

/// The zeros of Unicode's runs of ten decimal digits (general category Nd), beyond ASCII.
const ZEROS: [u32; 65] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50, 0xed0, 0xf20,
    0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90, 0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0,
    0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10, 0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0,
    0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60, 0x16ac0,
    0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (bool, Option<String>) {
        (is_number(text), to_number(text, Edition::Official).map(|number| number.to_string()))
    }

    #[test]
    fn reads_numbers_as_the_official_code_does() {
        let cases = [
            ("$1,496.5 million", true, Some("1496500000.0")),
            ("7 billion", true, Some("7000000000")),
            ("(94)", true, Some("-94")),
            ("$(94)", true, Some("-94")),
            ("(1,234)", true, Some("1234")),
            ("7.9%", true, Some("0.079")),
            ("(4.5%)", true, Some("0.045")),
            ("-4.5%", true, Some("-0.045")),
            ("5 apples", false, Some("5")),
            (".5", true, None),
            ("1_000", true, Some("1")),
            ("_1", false, Some("1")),
            ("Infinity", true, None),
            ("nan", false, None),
            ("-($i,nf)", true, None),
            ("in 5", false, Some("5")),
            ("net", false, None),
            ("\u{0663}\u{0664}", true, Some("34")),
            ("5\u{1c}thousand", true, Some("5000")),
            ("", false, None),
            ("123456789012345678901234567890 million", true, Some("123456789012345678901234567890000000")),
        ];
        for (text, number, value) in cases {
            assert_eq!(check(text), (number, value.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn all_numbers_of_a_text_and_parentheses_of_the_other_edition() {
        let all = |text: &str| all_numbers(text).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(all("from $1,496.5 to -12 and .5 (7%)"), ["1496.5", "-12", "7"]);
        assert_eq!(all("none"), Vec::<String>::new());
        let number = |edition| to_number("(4.5%)", edition).map(|number| number.to_string());
        assert_eq!(number(Edition::Official).as_deref(), Some("0.045"));
        assert_eq!(number(Edition::TatLlm).as_deref(), Some("-0.045"));
    }

    #[test]
    fn digits_of_every_script_and_no_more() {
        assert_eq!((0..=0x10_ffff).filter_map(char::from_u32).filter_map(digit).count(), 660);
        assert_eq!(digit('\u{ff19}'), Some('9'));
        assert_eq!(digit('²'), None);
    }
}
