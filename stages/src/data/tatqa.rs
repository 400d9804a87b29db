//! Reads TAT-QA's JSON, the official files unchanged (train, dev, and test_gold with its extra keys), into typed
//! contexts and questions. Unaware of prompts, tokens and scores.

use std::collections::HashSet;
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::error::{DataError, json_message, read_text};
use super::number::Number;

const SHAPE: &str = "expected TAT-QA's form: a list of {table: {uid, table}, paragraphs: [..], questions: [..]}";

/// A table, the texts around it, and the questions on them.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// The table's uid.
    pub uid: String,
    /// Rows of cells, exactly as in the file.
    pub table: Vec<Vec<String>>,
    /// Ascending by `order`.
    pub paragraphs: Vec<Paragraph>,
    /// In the file's order.
    pub questions: Vec<Question>,
}

/// One text item of a context.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Paragraph {
    /// The paragraph's uid.
    #[serde(default)]
    pub uid: String,
    /// Its number, printed in the prompt.
    pub order: u32,
    /// Its text, exactly as in the file.
    pub text: String,
}

/// A question with its gold answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Unique in the file: predictions are joined to questions by it.
    pub uid: String,
    /// Its number within the context.
    pub order: u32,
    /// The text, exactly as in the file.
    pub question: String,
    /// The gold answer, never empty.
    pub answer: Answer,
    /// How an arithmetic answer was computed, or "".
    pub derivation: String,
    /// Span, multi-span, arithmetic or count.
    pub answer_type: AnswerType,
    /// Table, text or both.
    pub answer_from: AnswerFrom,
    /// "", "thousand", "million", "billion" or "percent".
    pub scale: String,
}

/// How the answer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerType {
    /// One piece of the table or text.
    Span,
    /// Several pieces.
    MultiSpan,
    /// A computed number.
    Arithmetic,
    /// How many pieces there are.
    Count,
}

/// Where the answer is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerFrom {
    /// In the table alone.
    Table,
    /// In the texts alone.
    Text,
    /// In both together.
    TableText,
}

/// A gold answer in the form that the file gave it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// The pieces of a span or multi-span answer.
    Spans(Vec<String>),
    /// An arithmetic answer; printed as Python's `str()` prints it.
    Number(Number),
    /// A count, or a single piece written without a list.
    Text(String),
}

impl Answer {
    /// The answer's pieces as text.
    #[must_use]
    pub fn items(&self) -> Vec<String> {
        match self {
            Self::Spans(spans) => spans.clone(),
            Self::Number(number) => vec![number.to_string()],
            Self::Text(text) => vec![text.clone()],
        }
    }

    /// Whether there is nothing in it that a model could be asked to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items().iter().all(|item| item.trim().is_empty())
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By the first character, because an untagged enum would say "did not match any variant" and nothing more.
        let raw = Box::<serde_json::value::RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        let parsed = match text.bytes().next() {
            Some(b'[') => serde_json::from_str(text).map(Self::Spans),
            Some(b'"') => serde_json::from_str(text).map(Self::Text),
            Some(b'-' | b'0'..=b'9') => serde_json::from_str(text).map(Self::Number),
            _ => {
                let message = format!("an answer is a list of strings, a number or a string, not {text}");
                return Err(D::Error::custom(message));
            }
        };
        parsed.map_err(|error| D::Error::custom(format!("in an answer: {}", json_message(&error))))
    }
}

// What is written in the file; keys that nobody here needs (facts, consts, mappings, ...) are passed over.
#[derive(Deserialize)]
struct RawContext {
    table: RawTable,
    #[serde(default)]
    paragraphs: Vec<Paragraph>,
    questions: Vec<RawQuestion>,
}

#[derive(Deserialize)]
struct RawTable {
    uid: String,
    table: Vec<Vec<String>>,
}

#[derive(Deserialize)]
struct RawQuestion {
    uid: String,
    #[serde(default)]
    order: u32,
    question: String,
    #[serde(default)]
    answer: Option<Answer>,
    #[serde(default)]
    derivation: String,
    answer_type: Option<AnswerType>,
    answer_from: Option<AnswerFrom>,
    #[serde(default)]
    scale: String,
}

/// Reads a TAT-QA file.
///
/// # Errors
/// [`DataError::Io`], and those of [`parse`].
pub fn read(path: &Path) -> Result<Vec<Context>, DataError> {
    parse(&read_text(path)?, path)
}

/// Reads TAT-QA's JSON from memory; `path` only names it in errors.
///
/// # Errors
/// Malformed JSON ([`DataError::Json`]), no question at all, a question without an answer, a uid used twice.
pub fn parse(text: &str, path: &Path) -> Result<Vec<Context>, DataError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let raw: Vec<RawContext> = serde_json::from_str(text).map_err(|error| DataError::json(path, 1, &error, SHAPE))?;
    let mut seen = HashSet::new();
    let mut contexts = Vec::with_capacity(raw.len());
    for context in raw {
        let mut paragraphs = context.paragraphs;
        paragraphs.sort_by_key(|paragraph| paragraph.order);
        let mut questions = Vec::with_capacity(context.questions.len());
        for question in context.questions {
            let uid = question.uid.clone();
            if !seen.insert(uid.clone()) {
                return Err(DataError::DuplicateUid { path: path.to_owned(), line: line_of(text, &uid, 1), uid });
            }
            questions.push(labelled(question).ok_or_else(|| DataError::NoAnswer {
                path: path.to_owned(),
                line: line_of(text, &uid, 0),
                uid,
            })?);
        }
        contexts.push(Context { uid: context.table.uid, table: context.table.table, paragraphs, questions });
    }
    if seen.is_empty() {
        return Err(DataError::EmptyDataset { path: path.to_owned() });
    }
    Ok(contexts)
}

/// The typed question, or nothing if it carries no label.
fn labelled(raw: RawQuestion) -> Option<Question> {
    Some(Question {
        answer: raw.answer.filter(|answer| !answer.is_empty())?,
        answer_type: raw.answer_type?,
        answer_from: raw.answer_from?,
        uid: raw.uid,
        order: raw.order,
        question: raw.question,
        derivation: raw.derivation,
        scale: raw.scale,
    })
}

/// The line, from 1, of the `n`-th quoted occurrence of `uid` (0 if it is written with escapes and cannot be found).
fn line_of(text: &str, uid: &str, n: usize) -> usize {
    let quoted = format!("\"{uid}\"");
    let found = text.match_indices(&quoted).nth(n);
    found.map_or(0, |(at, _)| text[..at].bytes().filter(|&b| b == b'\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::data_dir;

    fn one(question: &str) -> String {
        format!(
            "[{{\"table\":{{\"uid\":\"t\",\"table\":[[\"a\",\"b\"]]}},\n\"paragraphs\":[{{\"uid\":\"p2\",\"order\":2,\
             \"text\":\"two\"}},{{\"uid\":\"p1\",\"order\":1,\"text\":\"one\"}}],\n\"questions\":[{question}]}}]"
        )
    }

    fn question(uid: &str, answer: &str) -> String {
        format!(
            "{{\"uid\":\"{uid}\",\"order\":1,\"question\":\"q\",\"answer\":{answer},\"derivation\":\"\",\
             \"answer_type\":\"span\",\"answer_from\":\"table-text\",\"facts\":[1],\"scale\":\"\"}}"
        )
    }

    fn check(text: &str) -> Result<Vec<Context>, String> {
        parse(text, Path::new("d.json")).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_every_form_of_answer_and_sorts_paragraphs() {
        for (json, items) in [
            ("[\"x\",\"\"]", vec!["x", ""]),
            ("22.12", vec!["22.12"]),
            ("-94", vec!["-94"]),
            ("1e-5", vec!["1e-05"]),
            ("\"4\"", vec!["4"]),
        ] {
            let contexts = check(&one(&question("u", json))).unwrap();
            assert_eq!(contexts[0].questions[0].answer.items(), items);
            assert_eq!(contexts[0].questions[0].answer_from, AnswerFrom::TableText);
            let orders: Vec<_> = contexts[0].paragraphs.iter().map(|p| p.order).collect();
            assert_eq!(orders, [1, 2]);
        }
    }

    #[test]
    fn errors_name_the_place() {
        let text = check(&one(&question("u", "{}"))).unwrap_err();
        assert!(text.starts_with("d.json:3:") && text.contains("not {}"), "{text}");
        let text = check(&one(&question("u", "[1]"))).unwrap_err();
        assert!(text.starts_with("d.json:3:") && text.contains("in an answer: invalid type: integer `1`"), "{text}");
        let text = check("[{\"table\": 1}]").unwrap_err();
        assert!(text.starts_with("d.json:1:12: invalid type: integer `1`"), "{text}");
        let text = check(&one(&question("u", "[\"x\"]"))[..150]).unwrap_err();
        assert!(text.starts_with("d.json:3:") && text.contains("EOF"), "{text}");
        let text = check("[]").unwrap_err();
        assert!(text.contains("holds no question"), "{text}");
    }

    #[test]
    fn a_row_without_a_label_or_with_a_used_uid_is_an_error() {
        for answer in ["null", "[]", "[\"\"]", "\" \""] {
            let text = check(&one(&question("the-uid", answer))).unwrap_err();
            assert!(text.starts_with("d.json:3: question the-uid has no answer"), "{text}");
        }
        let two = format!("{},\n{}", question("twice", "[\"x\"]"), question("twice", "[\"y\"]"));
        let text = check(&one(&two)).unwrap_err();
        assert!(text.starts_with("d.json:4: uid twice occurs a second time"), "{text}");
    }

    #[test]
    fn reads_the_official_files() {
        let Some(data) = data_dir() else { return };
        for (name, contexts, questions) in [("dev", 278, 1668), ("test_gold", 277, 1663)] {
            let read = read(&data.join(format!("tatqa/tatqa_dataset_{name}.json"))).unwrap();
            assert_eq!(read.len(), contexts);
            assert_eq!(read.iter().map(|context| context.questions.len()).sum::<usize>(), questions);
        }
    }
}
