//! Reads the plain part of TOML straight into a tree: tables under headers, bare or quoted keys, texts without escapes,
//! whole numbers, simple floats, booleans, lists and inline tables.
//!
//! A manifest of ten thousand stages is written by a program and uses nothing else; the full parser needs five times as
//! long for it. Whatever this reader does not know, or does not like, it leaves to that parser, which alone tells errors:
//! what is accepted here is accepted there and is the same tree, spans included (`tests/plain.rs`). Unaware of what the
//! keys mean.
use super::tree::{Entry, Item, Table, Tree};
use crate::diagnostic::{Place, SourceText};
use std::collections::HashMap;
use std::sync::Arc;

/// Lists and tables inside each other beyond this are left to the full parser.
const DEPTH: usize = 16;
/// Keys of one table that are compared one by one; a table with more is left to the full parser.
const FEW: usize = 64;
/// Digits that fit into 64 bits whatever they are.
const DIGITS: usize = 18;

/// The whole document, if it is plain.
pub(super) fn read(source: &Arc<SourceText>) -> Option<Table> {
    let bytes = source.text.as_bytes();
    // Control characters are forbidden in most places and carriage returns in some.
    if bytes.iter().any(|byte| matches!(byte, 0..=8 | 11..=31 | 127)) {
        return None;
    }
    let mut reader = Reader { source, text: &source.text, bytes, at: 0 };
    let mut document = Document::default();
    loop {
        reader.blank_lines();
        match reader.peek() {
            None => break,
            Some(b'[') => reader.header(&mut document)?,
            Some(_) => {
                let (key, key_place) = reader.key()?;
                if document.current.len() >= FEW || document.current.iter().any(|entry| entry.key == key) {
                    return None;
                }
                let item = reader.assigned(0)?;
                reader.line_end()?;
                document.current.push(Entry { key: key.to_owned(), key_place, item });
            }
        }
    }
    document.close();
    Some(document.root)
}

/// The tables that were opened so far.
#[derive(Default)]
struct Document<'a> {
    root: Table,
    /// By number of a table and key in it: number and place among the entries of a table that a header made there. The
    /// root has number 0.
    made: HashMap<(usize, &'a str), (usize, usize)>,
    /// By number: entries that are not from headers. They come first, because a table is opened once.
    values: Vec<usize>,
    /// Entries of the open table, which go to `path` when it is closed.
    current: Vec<Entry>,
    /// Places of the open table and of those around it among the entries of the table around each; empty: the root.
    path: Vec<usize>,
    /// Number of the open table.
    open: usize,
}

impl<'a> Document<'a> {
    /// The open table gets its entries.
    fn close(&mut self) {
        self.values.resize(self.values.len().max(self.open + 1), 0);
        self.values[self.open] = self.current.len();
        let entries = std::mem::take(&mut self.current);
        if let Some(table) = descend(&mut self.root, &self.path) {
            table.0 = entries;
        }
    }

    /// Opens a table that was not there. `place`: where its header is.
    fn open(&mut self, keys: &[(&'a str, Place)], place: &Place) -> Option<()> {
        self.close();
        self.path.clear();
        let mut number = 0;
        for (depth, (key, key_place)) in keys.iter().enumerate() {
            let last = depth + 1 == keys.len();
            if let Some((known, at)) = self.made.get(&(number, *key)) {
                // Opened before, or to be opened after a table inside it: rules that the full parser knows.
                if last {
                    return None;
                }
                self.path.push(*at);
                number = *known;
                continue;
            }
            let new = self.values.len();
            let table = descend(&mut self.root, &self.path)?;
            let values = self.values.get(number).copied().unwrap_or(0);
            if table.0.iter().take(values).any(|entry| entry.key == *key) {
                return None;
            }
            // A table that is only named by one inside it lies where its key does.
            let place = if last { place } else { key_place };
            let item = Item { place: place.clone(), tree: Tree::Table(Table::default()) };
            table.0.push(Entry { key: (*key).to_owned(), key_place: key_place.clone(), item });
            let at = table.0.len() - 1;
            self.made.insert((number, *key), (new, at));
            self.values.push(0);
            self.path.push(at);
            number = new;
        }
        self.open = number;
        Some(())
    }
}

/// The table at a path of places among entries.
fn descend<'t>(root: &'t mut Table, path: &[usize]) -> Option<&'t mut Table> {
    path.iter().try_fold(root, |table, at| match &mut table.0.get_mut(*at)?.item.tree {
        Tree::Table(table) => Some(table),
        _ => None,
    })
}

struct Reader<'a> {
    source: &'a Arc<SourceText>,
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// From a byte to here; both lie beside ASCII.
    fn place(&self, start: usize) -> Place {
        Place { source: Arc::clone(self.source), span: start..self.at }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    fn skip(&mut self, of: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&of) {
            self.at += 1;
        }
    }

    fn spaces(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn comment(&mut self) {
        if self.peek() == Some(b'#') {
            self.skip(|byte| byte != b'\n');
        }
    }

    /// White space, comments and ends of lines.
    fn blank_lines(&mut self) {
        loop {
            self.spaces();
            self.comment();
            if self.take(b'\n').is_none() {
                return;
            }
        }
    }

    /// Nothing but a comment up to the end of the line.
    fn line_end(&mut self) -> Option<()> {
        self.spaces();
        self.comment();
        if self.at == self.bytes.len() { Some(()) } else { self.take(b'\n') }
    }

    /// `[stages.copy]`
    fn header(&mut self, document: &mut Document<'a>) -> Option<()> {
        let start = self.at;
        self.take(b'[')?;
        let mut keys = Vec::with_capacity(2);
        loop {
            self.spaces();
            keys.push(self.key()?);
            self.spaces();
            if self.take(b'.').is_none() {
                break;
            }
        }
        self.take(b']')?;
        let place = self.place(start);
        self.line_end()?;
        (keys.len() <= DEPTH).then(|| document.open(&keys, &place))?
    }

    /// One key, without dots outside quotes.
    fn key(&mut self) -> Option<(&'a str, Place)> {
        let start = self.at;
        if self.peek() == Some(b'"') {
            let text = self.quoted()?;
            return Some((text, self.place(start)));
        }
        self.skip(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        (self.at > start).then(|| (&self.text[start..self.at], self.place(start)))
    }

    /// A text in double quotes, on one line and without escapes.
    fn quoted(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let start = self.at;
        self.skip(|byte| !matches!(byte, b'"' | b'\\' | b'\n'));
        let text = &self.text[start..self.at];
        self.take(b'"')?;
        // Three of them begin a text of several lines.
        (!text.is_empty() || self.peek() != Some(b'"')).then_some(text)
    }

    /// ` = value`
    fn assigned(&mut self, depth: usize) -> Option<Item> {
        self.spaces();
        self.take(b'=')?;
        self.spaces();
        self.value(depth)
    }

    fn value(&mut self, depth: usize) -> Option<Item> {
        let start = self.at;
        let tree = match self.peek()? {
            b'"' => Tree::Text(self.quoted()?.to_owned()),
            b'[' if depth < DEPTH => self.list(depth)?,
            b'{' if depth < DEPTH => self.inline_table(depth)?,
            b't' | b'f' => self.boolean()?,
            b'-' | b'0'..=b'9' => self.number()?,
            _ => return None,
        };
        Some(Item { place: self.place(start), tree })
    }

    fn list(&mut self, depth: usize) -> Option<Tree> {
        self.take(b'[')?;
        let mut items = Vec::new();
        loop {
            self.blank_lines();
            if self.take(b']').is_some() {
                return Some(Tree::List(items));
            }
            items.push(self.value(depth + 1)?);
            self.blank_lines();
            if self.peek() != Some(b']') {
                self.take(b',')?;
            }
        }
    }

    fn inline_table(&mut self, depth: usize) -> Option<Tree> {
        self.take(b'{')?;
        let mut table = Table::default();
        self.spaces();
        if self.take(b'}').is_some() {
            return Some(Tree::Table(table));
        }
        loop {
            self.spaces();
            let (key, key_place) = self.key()?;
            if table.0.len() >= FEW || table.get(key).is_some() {
                return None;
            }
            let item = self.assigned(depth + 1)?;
            table.0.push(Entry { key: key.to_owned(), key_place, item });
            self.spaces();
            if self.take(b'}').is_some() {
                return Some(Tree::Table(table));
            }
            self.take(b',')?;
        }
    }

    fn boolean(&mut self) -> Option<Tree> {
        let (word, value) = if self.peek() == Some(b't') { ("true", true) } else { ("false", false) };
        let found = self.text.get(self.at..self.at + word.len()) == Some(word);
        self.at += word.len();
        (found && self.at_end_of_value()).then_some(Tree::Bool(value))
    }

    /// `-12`, `0.5`, `1e-4`
    fn number(&mut self) -> Option<Tree> {
        let start = self.at;
        let _ = self.take(b'-');
        let first = self.at;
        let whole = self.digits()?;
        if whole > 1 && self.bytes.get(first) == Some(&b'0') {
            return None;
        }
        let mut float = false;
        if self.take(b'.').is_some() {
            float = true;
            self.digits()?;
        }
        if self.take(b'e').is_some() {
            float = true;
            if self.take(b'-').is_none() {
                let _ = self.take(b'+');
            }
            self.digits()?;
        }
        if !self.at_end_of_value() {
            return None;
        }
        let text = &self.text[start..self.at];
        if float {
            return text.parse().ok().filter(|value: &f64| value.is_finite()).map(Tree::Float);
        }
        text.parse().ok().map(Tree::Int)
    }

    /// At least one digit, and not too many.
    fn digits(&mut self) -> Option<usize> {
        let start = self.at;
        self.skip(|byte| byte.is_ascii_digit());
        Some(self.at - start).filter(|count| (1..=DIGITS).contains(count))
    }

    fn at_end_of_value(&self) -> bool {
        matches!(self.peek(), None | Some(b' ' | b'\t' | b'\n' | b',' | b']' | b'}' | b'#'))
    }
}
