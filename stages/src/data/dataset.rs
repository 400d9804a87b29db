//! The files of a dataset artifact: which format a split has shows in its name. Unaware of what is done with the rows.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::error::{DataError, json_message, read_text};
use super::instruct::{self, Conversation};
use super::tatqa::{self, Context};
use super::token_set::Split;

/// The rows of a split, in the format that they came in.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// TAT-QA, `<split>.json`.
    TatQa(Vec<Context>),
    /// Instruction data, `<split>.jsonl`.
    Instruct(Vec<Conversation>),
}

impl Rows {
    /// Reads a split of a dataset artifact; `None` if it has no such split.
    ///
    /// # Errors
    /// Those of the format's reader.
    pub fn read(dir: &Path, split: Split) -> Result<Option<Self>, DataError> {
        let [tatqa, instruct] = paths(dir, split);
        if tatqa.exists() {
            return Ok(Some(Self::TatQa(tatqa::read(&tatqa)?)));
        }
        if instruct.exists() {
            return Ok(Some(Self::Instruct(instruct::read(&instruct)?)));
        }
        Ok(None)
    }

    /// How many answers there are to learn or to give: questions, or rows.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::TatQa(contexts) => contexts.iter().map(|context| context.questions.len()).sum(),
            Self::Instruct(rows) => rows.len(),
        }
    }

    /// Whether there is nothing in it; what was read never is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether a file is in TAT-QA's own form; else it holds instruction rows. One list of objects may be either: TAT-QA's
/// have a table and questions.
///
/// # Errors
/// It cannot be read, or is neither.
pub fn is_tat_qa(file: &Path) -> Result<bool, DataError> {
    #[derive(Deserialize)]
    struct Item {
        table: Option<IgnoredAny>,
        questions: Option<IgnoredAny>,
    }
    let text = read_text(file)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).trim_start();
    let unknown = |problem: String| DataError::Row { path: file.to_owned(), line: 1, problem };
    match text.as_bytes().first() {
        Some(b'{') => Ok(false),
        Some(b'[') => {
            let items: Vec<&RawValue> =
                serde_json::from_str(text).map_err(|error| DataError::json(file, 1, &error, "expected one JSON list"))?;
            let first = items.first().map(|item| serde_json::from_str::<Item>(item.get()));
            match first {
                Some(Ok(item)) => Ok(item.table.is_some() || item.questions.is_some()),
                Some(Err(error)) => Err(unknown(format!("the list's items are no objects: {}", json_message(&error)))),
                None => Err(DataError::EmptyDataset { path: file.to_owned() }),
            }
        }
        _ => Err(unknown(
            "the format of this data file is not known; it is TAT-QA's JSON, or instruction rows: JSON lines, or one list, of \
             `instruction`, `input`, `output`, of `messages`, or of prepared samples"
                .to_owned(),
        )),
    }
}

fn paths(dir: &Path, split: Split) -> [PathBuf; 2] {
    ["json", "jsonl"].map(|extension| dir.join(format!("{}.{extension}", split.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_content_tells_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let check = |text: &str| {
            let file = dir.path().join("d");
            std::fs::write(&file, text).unwrap();
            is_tat_qa(&file).map_err(|error| error.to_string())
        };
        assert_eq!(check("\u{feff} [{\"table\": {}, \"questions\": []}]"), Ok(true));
        assert_eq!(check("[{\"id\": \"a\", \"user_prompt\": \"q\", \"resp\": \"r\"}]"), Ok(false));
        assert_eq!(check("{\"instruction\": \"a\"}\n"), Ok(false));
        for (text, part) in [("x", "is not known"), ("[]", "holds no question"), ("[1]", "no objects"), ("[", "EOF")] {
            let told = check(text).unwrap_err();
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn the_name_tells_the_format() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("eval.jsonl"), "{\"instruction\": \"a\", \"output\": \"b\"}\n").unwrap();
        let rows = Rows::read(dir.path(), Split::Eval).unwrap().unwrap();
        assert!(matches!(rows, Rows::Instruct(_)) && rows.len() == 1 && !rows.is_empty());
        assert_eq!(Rows::read(dir.path(), Split::Train).unwrap(), None);
    }
}
