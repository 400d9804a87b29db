//! The files of a dataset artifact: which format a split has shows in its name. Unaware of what is done with the rows.

use std::path::{Path, PathBuf};

use super::error::DataError;
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

fn paths(dir: &Path, split: Split) -> [PathBuf; 2] {
    ["json", "jsonl"].map(|extension| dir.join(format!("{}.{extension}", split.name())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("eval.jsonl"), "{\"instruction\": \"a\", \"output\": \"b\"}\n").unwrap();
        let rows = Rows::read(dir.path(), Split::Eval).unwrap().unwrap();
        assert!(matches!(rows, Rows::Instruct(_)) && rows.len() == 1 && !rows.is_empty());
        assert_eq!(Rows::read(dir.path(), Split::Train).unwrap(), None);
    }
}
