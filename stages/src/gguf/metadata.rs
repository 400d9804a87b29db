//! The key-value pairs of a GGUF file, with the place of each for errors. Unaware of what the keys mean.
use anneal_engine::Failure;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A value. Integers of every width are one kind, and so are floats.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Integer(i64),
    Float(f32),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Flag(_) => "a flag",
            Self::Text(_) => "a text",
            Self::Texts(_) => "a list of texts",
            Self::Integers(_) => "a list of integers",
            Self::Floats(_) => "a list of numbers",
        }
    }
}

/// A value and where its key begins in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) value: Value,
}

/// All pairs of a file.
#[derive(Debug)]
pub(super) struct Metadata {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

impl Metadata {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), entries: BTreeMap::new() }
    }

    /// Whether the key was there already.
    pub(super) fn insert(&mut self, key: String, entry: Entry) -> bool {
        self.entries.insert(key, entry).is_some()
    }

    /// Where a key begins; 0 if it is absent.
    pub(super) fn offset(&self, key: &str) -> u64 {
        self.entries.get(key).map_or(0, |entry| entry.offset)
    }

    /// Something wrong with the value of a key, or with its absence.
    pub(super) fn fault(&self, key: &str, what: impl std::fmt::Display) -> Failure {
        let path = self.path.display();
        let failure = match self.entries.get(key) {
            Some(entry) => Failure::user(format!("{path}: byte {}: `{key}` {what}", entry.offset)),
            None => Failure::user(format!("{path}: the metadata key `{key}` {what}")),
        };
        failure.hint("take another conversion of the model, or its Hugging Face folder")
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match read(&entry.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.fault(key, format!("is {}, expected {expected}", entry.value.kind()))),
        }
    }

    /// An integer that is not negative.
    pub(super) fn integer(&self, key: &str) -> Result<Option<u64>, Failure> {
        self.get(key, "an integer from 0", |value| match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A finite number; an integer is accepted.
    pub(super) fn float(&self, key: &str) -> Result<Option<f32>, Failure> {
        self.get(key, "a finite number", |value| match value {
            Value::Float(number) if number.is_finite() => Some(*number),
            Value::Integer(number) => Some(*number as f32),
            _ => None,
        })
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Failure> {
        self.get(key, "true or false", |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Failure> {
        self.get(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<&[String]>, Failure> {
        self.get(key, "a list of texts", |value| match value {
            Value::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<&[i64]>, Failure> {
        self.get(key, "a list of integers", |value| match value {
            Value::Integers(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<&[f32]>, Failure> {
        self.get(key, "a list of numbers", |value| match value {
            Value::Floats(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// A value that must be there.
    pub(super) fn require<T>(&self, key: &str, value: Option<T>) -> Result<T, Failure> {
        value.ok_or_else(|| self.fault(key, "is missing").hint("the file is no complete Llama model in GGUF form"))
    }
}
