//! A parsed TOML text as a tree that owns its values and knows the place of each, so that a manifest and the
//! `--set` arguments can be merged and every later problem still points at what was written.
//!
//! Unaware of what the keys mean.
use super::plain;
use crate::diagnostic::{Diagnostic, Place, SourceText};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Tables inside tables beyond this are refused; a manifest needs four.
const DEPTH: usize = 64;

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    pub(super) place: Place,
    pub(super) tree: Tree,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Date,
    List(Vec<Item>),
    Table(Table),
    /// Something that was already complained about.
    Broken,
}

/// Entries in the order of the text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Table(pub(super) Vec<Entry>);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) item: Item,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    /// Puts a value at a path of keys; what is no table on the way is replaced by one.
    pub(super) fn put(&mut self, path: &[(String, Place)], item: Item) {
        let Some(((key, key_place), rest)) = path.split_first() else { return };
        let at = self.0.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
            let item = Item { place: key_place.clone(), tree: Tree::Table(Self::default()) };
            self.0.push(Entry { key: key.clone(), key_place: key_place.clone(), item });
            self.0.len() - 1
        });
        let entry = &mut self.0[at];
        if rest.is_empty() {
            *entry = Entry { key: key.clone(), key_place: key_place.clone(), item };
            return;
        }
        if !matches!(entry.item.tree, Tree::Table(_)) {
            entry.item = Item { place: key_place.clone(), tree: Tree::Table(Self::default()) };
            entry.key_place = key_place.clone();
        }
        if let Tree::Table(table) = &mut entry.item.tree {
            table.put(rest, item);
        }
    }
}

impl Item {
    pub(super) fn table(&self) -> Option<&Table> {
        if let Tree::Table(table) = &self.tree { Some(table) } else { None }
    }

    /// What it is, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match &self.tree {
            Tree::Bool(_) => "a boolean",
            Tree::Int(_) => "an integer",
            Tree::Float(_) => "a float",
            Tree::Text(_) => "text",
            Tree::Date => "a date",
            Tree::List(_) => "a list",
            Tree::Table(_) => "a table",
            Tree::Broken => "nothing readable",
        }
    }
}

/// Parses a whole document; the table holds what could be made of it.
pub(super) fn parse(source: &Arc<SourceText>, problems: &mut Vec<Diagnostic>) -> Table {
    plain::read(source).unwrap_or_else(|| parse_fully(source, problems))
}

/// Parses a whole document with all that TOML has.
pub(super) fn parse_fully(source: &Arc<SourceText>, problems: &mut Vec<Diagnostic>) -> Table {
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        let span = error.span().unwrap_or(source.text.len()..source.text.len());
        problems.push(Diagnostic::error(&Place::new(source, span), format!("not valid TOML: {}", error.message())));
    }
    Reader { source, offset: 0, problems }.table(document.get_ref(), 0)
}

/// Converts a value that was parsed from the part of `source` that begins at `offset`.
pub(super) fn value(
    source: &Arc<SourceText>,
    offset: usize,
    value: &Spanned<DeValue<'_>>,
    problems: &mut Vec<Diagnostic>,
) -> Item {
    Reader { source, offset, problems }.item(value, 0)
}

struct Reader<'a> {
    source: &'a Arc<SourceText>,
    offset: usize,
    problems: &'a mut Vec<Diagnostic>,
}

impl Reader<'_> {
    fn place(&self, span: std::ops::Range<usize>) -> Place {
        Place::new(self.source, span.start + self.offset..span.end + self.offset)
    }

    fn table(&mut self, table: &DeTable<'_>, depth: usize) -> Table {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                key_place: self.place(key.span()),
                item: self.item(value, depth),
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_place.span.start);
        Table(entries)
    }

    fn item(&mut self, value: &Spanned<DeValue<'_>>, depth: usize) -> Item {
        let place = self.place(value.span());
        let tree = match value.get_ref() {
            DeValue::Boolean(value) => Tree::Bool(*value),
            DeValue::String(text) => Tree::Text(text.to_string()),
            DeValue::Datetime(_) => Tree::Date,
            DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
                Ok(value) => Tree::Int(value),
                Err(_) => self.broken(&place, "this integer does not fit into 64 bits"),
            },
            DeValue::Float(digits) => match digits.as_str().parse::<f64>() {
                Ok(value) if value.is_finite() => Tree::Float(value),
                _ => self.broken(&place, "this is no finite number"),
            },
            DeValue::Array(_) | DeValue::Table(_) if depth >= DEPTH => {
                self.broken(&place, &format!("tables and lists are nested more than {DEPTH} deep"))
            }
            DeValue::Array(items) => Tree::List(items.iter().map(|item| self.item(item, depth + 1)).collect()),
            DeValue::Table(table) => Tree::Table(self.table(table, depth + 1)),
        };
        Item { place, tree }
    }

    fn broken(&mut self, place: &Place, message: &str) -> Tree {
        self.problems.push(Diagnostic::error(place, message));
        Tree::Broken
    }
}
