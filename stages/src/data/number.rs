//! Numbers as TAT-QA's Python tools hold and print them: integers of any size, and doubles whose text is the
//! shortest that reads back. Unaware of questions, scales and metrics.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number with Python's distinction between `int` and `float`.
#[derive(Debug, Clone, PartialEq)]
pub enum Number {
    /// An integer of any size in canonical decimal form: no leading zeros, no `+`, no `-0`.
    Int(String),
    /// A double.
    Float(f64),
}

impl Number {
    /// Reads a JSON or plain decimal number: an integer if it has neither `.` nor an exponent, as Python's `json` does.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
            let digits = unsigned.trim_start_matches('0');
            return Some(Self::Int(match digits {
                "" => "0".to_owned(),
                _ if text.starts_with('-') => format!("-{digits}"),
                _ => digits.to_owned(),
            }));
        }
        // `f64::from_str` also takes "inf" and "nan", which are no JSON.
        if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        text.parse().ok().map(Self::Float)
    }

    /// Whether Python calls it false.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Int(digits) => digits == "0",
            Self::Float(value) => *value == 0.0,
        }
    }

    /// The nearest double (infinite where the integer is out of range).
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        match self {
            // Canonical decimal digits always parse.
            Self::Int(digits) => digits.parse().unwrap_or(f64::NAN),
            Self::Float(value) => *value,
        }
    }
}

impl fmt::Display for Number {
    /// Python's `str()`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(digits) => f.write_str(digits),
            Self::Float(value) => f.write_str(&float_text(*value)),
        }
    }
}

/// Python's `repr(float)`: the shortest digits that read back; positional where the decimal exponent lies in
/// -4..16, else scientific with a sign and at least two digits of exponent.
#[must_use]
pub fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // `{:e}` gives the same shortest digits: "-1.2345e-5".
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// Python's `round(value, digits)`: half to even on the exact binary value, then the nearest double.
#[must_use]
pub fn round_to(value: f64, digits: usize) -> f64 {
    // The formatter rounds the exact binary value, as CPython's dtoa does.
    format!("{value:.digits$}").parse().unwrap_or(value)
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Int(digits) => match (digits.parse::<i64>(), digits.parse::<u64>()) {
                (Ok(value), _) => serializer.serialize_i64(value),
                (_, Ok(value)) => serializer.serialize_u64(value),
                _ => serializer.serialize_str(digits),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The raw text, because serde_json's own reading of a double may be off by one unit in the last place.
        let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        Self::parse(text).ok_or_else(|| D::Error::custom(format!("expected a number, found {text}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_python_does() {
        let cases: [(&str, &str); 16] = [
            ("22.12", "22.12"),
            ("-94", "-94"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("5.0", "5.0"),
            ("1e5", "100000.0"),
            ("1E+16", "1e+16"),
            ("123456789012345.6", "123456789012345.6"),
            ("9999999999999998.0", "9999999999999998.0"),
            ("12345678901234567.0", "1.2345678901234568e+16"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("1.5e-7", "1.5e-07"),
            ("1e100", "1e+100"),
            ("2.5e-320", "2.5e-320"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
        ];
        for (json, text) in cases {
            let number: Number = serde_json::from_str(json).unwrap();
            assert_eq!(number.to_string(), text, "{json}");
        }
    }

    #[test]
    fn rounds_half_to_even_on_the_binary_value() {
        for (value, digits, rounded) in [
            (0.125, 2, 0.12),
            (0.375, 2, 0.38),
            (1.005, 2, 1.0),
            (2.675, 2, 2.67),
            (0.025, 2, 0.03),
            (0.5, 0, 0.0),
            (1.5, 0, 2.0),
            (2.5, 0, 2.0),
            (1e300, 4, 1e300),
        ] {
            assert_eq!(round_to(value, digits).to_bits(), f64::to_bits(rounded), "{value}");
        }
    }

    #[test]
    fn refuses_what_is_no_number() {
        for text in ["", "-", "nan", "inf", "-inf", "1x", "--1", "1e"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
        assert!(serde_json::from_str::<Number>("\"1\"").is_err());
    }

    #[test]
    fn serialises_as_the_same_number() {
        for text in ["22.12", "-94", "18446744073709551615", "0.1"] {
            let number = Number::parse(text).unwrap();
            assert_eq!(serde_json::to_string(&number).unwrap(), text);
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]
        #[test]
        fn a_printed_double_reads_back(bits in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
            let text = float_text(bits);
            proptest::prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits.to_bits());
            proptest::prop_assert_eq!(Number::parse(&text), Some(Number::Float(bits)));
        }
    }
}
