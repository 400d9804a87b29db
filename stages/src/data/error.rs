//! The errors of the data library: what is wrong, in which file and line, and what to do next.
//! Unaware of stages and of the engine; nothing here prints.

use std::path::{Path, PathBuf};

/// Why data could not be read, rendered, encoded or stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// The verb: "read", "write", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not JSON of the expected shape.
    #[error("{path}:{line}:{column}: {message}; {hint}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser found, without the position.
        message: String,
        /// What the file should have been.
        hint: &'static str,
    },
    /// A data set without a question.
    #[error("{path}: the data set holds no question; check that this is the file you meant")]
    EmptyDataset {
        /// The file.
        path: PathBuf,
    },
    /// A row that could carry no label.
    #[error(
        "{path}:{line}: question {uid} has no answer, so nothing could be learnt from it or scored against it; \
         add an answer or remove the question"
    )]
    NoAnswer {
        /// The file.
        path: PathBuf,
        /// The line on which the uid stands.
        line: usize,
        /// The question.
        uid: String,
    },
    /// The same uid twice in one file.
    #[error("{path}:{line}: uid {uid} occurs a second time; answers are joined to questions by uid, so make it unique")]
    DuplicateUid {
        /// The file.
        path: PathBuf,
        /// The line of the second occurrence.
        line: usize,
        /// The uid.
        uid: String,
    },
    /// The chat template is absent, does not compile, or cannot render a conversation.
    #[error("chat template {name}: {problem}; {hint}")]
    ChatTemplate {
        /// Its name: a built-in one, or the file it came from.
        name: String,
        /// What is wrong.
        problem: String,
        /// What to do next.
        hint: &'static str,
    },
    /// The tokenizer cannot be read, or cannot do what is asked.
    #[error("tokenizer {place}: {problem}")]
    Tokenizer {
        /// Its file, or its role where it has no file.
        place: String,
        /// What is wrong and what to do next.
        problem: String,
    },
    /// An example whose ids or labels would teach the wrong thing.
    #[error("question {uid}: {problem}")]
    Audit {
        /// The question.
        uid: String,
        /// What is wrong and what to do next.
        problem: String,
    },
    /// Several examples failed the audit.
    #[error("{count} of {questions} questions cannot be encoded; the first: {first}")]
    Audits {
        /// How many failed.
        count: usize,
        /// Of how many.
        questions: usize,
        /// The first failures, joined by "; ".
        first: String,
    },
    /// Examples that do not fit `max_length` even without any text paragraph.
    #[error(
        "{count} of {questions} questions are longer than max_length = {max_length} tokens even without their text \
         paragraphs (tables, questions and answers are never cut): {first}; set max_length to at least {needed}"
    )]
    TooLong {
        /// How many do not fit.
        count: usize,
        /// Of how many.
        questions: usize,
        /// The limit in force.
        max_length: usize,
        /// The first few: "uid (n tokens, m without text)".
        first: String,
        /// The smallest `max_length` that fits every question.
        needed: usize,
    },
    /// A row of instruction data that is no conversation.
    #[error("{path}:{line}: {problem}")]
    Row {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what to do next.
        problem: String,
    },
    /// Conversations that do not fit `max_length`.
    #[error(
        "{count} of {rows} rows are longer than max_length = {max_length} tokens (nothing of a row is ever cut off): \
         {first}; set max_length to at least {needed}, or remove these rows"
    )]
    TooLongRows {
        /// How many do not fit.
        count: usize,
        /// Of how many.
        rows: usize,
        /// The limit in force.
        max_length: usize,
        /// The first few: "uid (n tokens)".
        first: String,
        /// The smallest `max_length` that fits every row.
        needed: usize,
    },
    /// A file of a tokens artifact that is truncated or contradicts itself.
    #[error("{path}: {problem}; the artifact is damaged: remove it from the store and run the tokenize stage again")]
    TokenSet {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        problem: String,
    },
    /// A tokenizer could not be trained.
    #[error("cannot train a tokenizer: {problem}")]
    Training {
        /// What is wrong and what to do next.
        problem: String,
    },
}

impl DataError {
    /// An [`DataError::Io`] for `path`.
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// A [`DataError::Json`] for a text that starts on line `first_line` of `path` (1 for a whole file).
    pub(crate) fn json(path: &Path, first_line: usize, error: &serde_json::Error, hint: &'static str) -> Self {
        let line = first_line + error.line().max(1) - 1;
        Self::Json { path: path.to_owned(), line, column: error.column().max(1), message: json_message(error), hint }
    }
}

/// What a JSON error says without its position. Also for errors inside a value that was cut out of a file: its position
/// there would be taken for one in the file.
pub(crate) fn json_message(error: &serde_json::Error) -> String {
    let tail = format!(" at line {} column {}", error.line(), error.column());
    let full = error.to_string();
    full.strip_suffix(&tail).unwrap_or(&full).to_owned()
}

/// Reads a text file.
///
/// # Errors
/// [`DataError::Io`] if it cannot be read or is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, DataError> {
    std::fs::read_to_string(path).map_err(|source| DataError::io("read", path, source))
}

/// Writes `bytes` to `path`. Making them durable is the business of the store that the folder belongs to.
///
/// # Errors
/// [`DataError::Io`].
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    std::fs::write(path, bytes).map_err(|source| DataError::io("write", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_errors_lead_with_file_line_and_column() {
        let error = serde_json::from_str::<Vec<u8>>("[1,\n 2,\n \"x\"]").unwrap_err();
        let text = DataError::json(Path::new("d.json"), 1, &error, "expected bytes").to_string();
        assert_eq!(text, "d.json:3:4: invalid type: string \"x\", expected u8; expected bytes");
        let text = DataError::json(Path::new("d.jsonl"), 10, &error, "expected bytes").to_string();
        assert!(text.starts_with("d.jsonl:12:4: "), "{text}");
    }

    #[test]
    fn a_missing_file_names_itself() {
        let text = read_text(Path::new("no/such/file.json")).unwrap_err().to_string();
        assert!(text.starts_with("cannot read no/such/file.json: "), "{text}");
    }
}
