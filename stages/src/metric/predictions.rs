//! Predictions in the official form `{uid: [answer, scale]}`: an answer is a string, a number, null or a list.
//! Unaware of gold answers and scores.

use std::collections::HashMap;
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::data::error::{DataError, json_message, read_text};
use crate::data::number::Number;

const SHAPE: &str = "expected {\"uid\": [answer, scale], ...} with a string, a number, null or a list as answer";

/// What a model answered, by question uid.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Predictions(pub(super) HashMap<String, Prediction>);

/// One answer. `items` is empty where Python would call the answer false: null, "", [], or the number 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// The answer's pieces as Python's `str()` prints them.
    pub items: Vec<String>,
    /// The unit; nothing equals an absent one.
    pub scale: Option<String>,
}

impl Predictions {
    /// Reads a prediction file.
    ///
    /// # Errors
    /// [`DataError::Io`], or [`DataError::Json`] with file, line and column. Of a uid given twice the last counts,
    /// as in the official evaluator.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        Self::parse(&read_text(path)?, path)
    }

    /// Reads predictions from memory; `path` only names them in errors.
    ///
    /// # Errors
    /// [`DataError::Json`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, DataError> {
        let raw: HashMap<String, (Items, Option<String>)> =
            serde_json::from_str(text).map_err(|error| DataError::json(path, 1, &error, SHAPE))?;
        Ok(Self(raw.into_iter().map(|(uid, (Items(items), scale))| (uid, Prediction { items, scale })).collect()))
    }

    /// How many questions were answered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer to a question.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<&Prediction> {
        self.0.get(uid)
    }
}

impl FromIterator<(String, Vec<String>, Option<String>)> for Predictions {
    /// From (uid, answer items, scale). A lone empty item is no answer, as the official file's bare `""` is none.
    fn from_iter<I: IntoIterator<Item = (String, Vec<String>, Option<String>)>>(rows: I) -> Self {
        let answered = |items: Vec<String>| if items == [""] { Vec::new() } else { items };
        let rows = rows.into_iter().map(|(uid, items, scale)| (uid, Prediction { items: answered(items), scale }));
        Self(rows.collect())
    }
}

struct Items(Vec<String>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        let items = match raw.get().bytes().next() {
            Some(b'[') => {
                let raw: Vec<Box<serde_json::value::RawValue>> =
                    serde_json::from_str(raw.get()).map_err(|error| D::Error::custom(json_message(&error)))?;
                raw.iter().map(|item| scalar(item.get())).collect::<Result<Vec<_>, _>>()
            }
            Some(b'n') => Ok(Vec::new()),
            // A bare "", 0 or false is no answer at all; within a list it is one.
            _ => scalar(raw.get()).map(|text| match (text.as_str(), raw.get().bytes().next()) {
                ("" | "False", _) | ("0" | "0.0" | "-0.0", Some(b'-' | b'0'..=b'9')) => Vec::new(),
                _ => vec![text],
            }),
        };
        items.map(Self).map_err(D::Error::custom)
    }
}

/// Python's `str()` of a JSON scalar.
fn scalar(text: &str) -> Result<String, String> {
    match text.bytes().next() {
        Some(b'"') => serde_json::from_str(text).map_err(|error| json_message(&error)),
        Some(b'n') => Ok("None".to_owned()),
        Some(b't') => Ok("True".to_owned()),
        Some(b'f') => Ok("False".to_owned()),
        Some(b'-' | b'0'..=b'9') => {
            Number::parse(text).map(|number| number.to_string()).ok_or_else(|| format!("{text} is no number"))
        }
        _ => Err(format!("an answer's items are strings or numbers, not {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &str) -> Result<Vec<String>, String> {
        let text = format!("{{\n\"u\": [{answer}, \"million\"]}}");
        let predictions = Predictions::parse(&text, Path::new("p.json")).map_err(|error| error.to_string())?;
        Ok(predictions.get("u").ok_or("absent")?.items.clone())
    }

    #[test]
    fn reads_every_form() {
        for (json, items) in [
            ("\"x\"", vec!["x"]),
            ("\"0\"", vec!["0"]),
            ("22.12", vec!["22.12"]),
            ("-12600000", vec!["-12600000"]),
            ("[\"a\", 2, 1.50]", vec!["a", "2", "1.5"]),
            ("[\"\"]", vec![""]),
            ("null", vec![]),
            ("\"\"", vec![]),
            ("0", vec![]),
            ("0.0", vec![]),
            ("-0.0", vec![]),
            ("[]", vec![]),
            ("false", vec![]),
        ] {
            assert_eq!(check(json).unwrap(), items, "{json}");
        }
    }

    #[test]
    fn a_lone_empty_item_from_a_model_is_no_answer() {
        let row = |items: &[&str]| ("u".to_owned(), items.iter().map(|&item| item.to_owned()).collect(), None);
        let items = |row| Predictions::from_iter([row]).get("u").map(|prediction| prediction.items.len());
        assert_eq!((items(row(&[""])), items(row(&["", ""])), items(row(&["x"]))), (Some(0), Some(2), Some(1)));
    }

    #[test]
    fn errors_name_file_and_line() {
        for bad in ["{}", "[[\"x\"]]", "\"x"] {
            let text = check(bad).unwrap_err();
            assert!(text.starts_with("p.json:2:"), "{text}");
        }
        let text = Predictions::parse("{\"u\": 3}", Path::new("p.json")).unwrap_err().to_string();
        assert!(text.starts_with("p.json:1:7: invalid type: integer `3`"), "{text}");
    }
}
