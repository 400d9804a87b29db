//! Problems of a manifest as data: where (file, line, column, bytes), what, and what to do.
//!
//! Unaware of colours, carets and terminals; `engine/cli` draws them from the text that each problem carries.
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A text that problems point into: a manifest, or one `--set` argument.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceText {
    /// What to call it: the path as the user wrote it, or `--set`.
    pub name: String,
    /// All of it; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// 0: a manifest; n: the n-th `--set` argument.
    pub order: usize,
}

impl SourceText {
    /// It came from `--set`, so relative paths in it start at the current folder.
    pub fn is_set(&self) -> bool {
        self.order > 0
    }

    /// Line and column of a byte, both counted from 1; a column is a character.
    pub fn position(&self, byte: usize) -> (usize, usize) {
        let before = &self.text[..self.clamp(byte)];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        // A byte order mark takes no room in front of the first line.
        (line, before[start..].chars().filter(|c| *c != '\u{feff}').count() + 1)
    }

    /// The nearest place at or before `byte` that is inside the text and between two characters.
    fn clamp(&self, byte: usize) -> usize {
        let mut byte = byte.min(self.text.len());
        while !self.text.is_char_boundary(byte) {
            byte -= 1;
        }
        byte
    }
}

/// A stretch of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The text.
    pub source: Arc<SourceText>,
    /// Bytes within it, on character boundaries.
    pub span: Range<usize>,
}

impl Place {
    /// A stretch of a text, moved onto character boundaries inside it.
    pub fn new(source: &Arc<SourceText>, span: Range<usize>) -> Self {
        let start = source.clamp(span.start);
        let end = source.clamp(span.end).max(start);
        Self { source: Arc::clone(source), span: start..end }
    }

    /// The text itself.
    pub fn text(&self) -> &str {
        self.source.text.get(self.span.clone()).unwrap_or_default()
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing runs.
    Error,
    /// Worth attention; everything goes on.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub place: Place,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What is wrong: a fragment without a capital letter or a full stop.
    pub message: String,
    /// A few words under the caret; may be empty.
    pub label: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(place: &Place, message: impl Into<String>) -> Self {
        let (line, column) = place.source.position(place.span.start);
        let (message, label) = (message.into(), String::new());
        Self { severity: Severity::Error, place: place.clone(), line, column, message, label, hint: None }
    }

    /// Adds the words under the caret.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds what to do, if there is something.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Makes it a warning.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// Name of the text it points into.
    pub fn file(&self) -> &str {
        &self.place.source.name
    }

    /// Bytes it points at.
    pub fn span(&self) -> Range<usize> {
        self.place.span.clone()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        f.write_str(self.file())?;
        // A file that could not be read, or is empty, has no lines.
        if !self.place.source.text.is_empty() {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {severity}: {}", self.message)?;
        if !self.label.is_empty() {
            write!(f, ": {}", self.label)?;
        }
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Diagnostic", 8)?;
        out.serialize_field("severity", &self.severity)?;
        out.serialize_field("file", self.file())?;
        out.serialize_field("line", &self.line)?;
        out.serialize_field("column", &self.column)?;
        out.serialize_field("span", &[self.place.span.start, self.place.span.end])?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("label", &self.label)?;
        out.serialize_field("hint", &self.hint)?;
        out.end()
    }
}

/// All problems of a manifest, in the order of the text, `--set` arguments last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Puts them in the order in which a person meets them.
    pub(crate) fn sort(&mut self) {
        self.0.sort_by_key(|d| (d.place.source.order, d.place.span.start));
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
