//! The two listeners of a key's walk: one hashes, one writes the document.
//!
//! The hashed encoding is prefix-free: every item begins with a tag byte, every text and container with its length.
//! Unaware of what the fields mean.
use super::Digest;
use serde_json::{Map, Number, Value};

/// Listens to the items of a key in order. `end` closes the innermost `map` or `list`.
pub(super) trait Sink {
    fn map(&mut self, len: usize);
    fn field(&mut self, name: &str);
    fn list(&mut self, len: usize);
    fn end(&mut self);
    fn bool(&mut self, value: bool);
    fn int(&mut self, value: i128);
    fn float(&mut self, value: f64);
    fn text(&mut self, value: &str);
    fn digest(&mut self, value: &Digest);
    /// A path was given; its content is told elsewhere.
    fn file(&mut self);
}

/// What a path parameter reads in a document.
const FILE: &str = "(file)";

/// Collects the encoding, to hash it in one go: a key is a few hundred bytes in a hundred pieces.
pub(super) struct HashSink(Vec<u8>);

impl HashSink {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(1024))
    }

    pub(super) fn finish(self) -> Digest {
        Digest::of(&self.0)
    }

    fn item(&mut self, tag: u8, bytes: &[u8]) {
        self.0.push(tag);
        self.0.extend_from_slice(bytes);
    }

    fn sized(&mut self, tag: u8, bytes: &[u8]) {
        self.item(tag, &(bytes.len() as u64).to_le_bytes());
        self.0.extend_from_slice(bytes);
    }
}

impl Sink for HashSink {
    fn map(&mut self, len: usize) {
        self.item(b'm', &(len as u64).to_le_bytes());
    }
    fn field(&mut self, name: &str) {
        self.sized(b'k', name.as_bytes());
    }
    fn list(&mut self, len: usize) {
        self.item(b'l', &(len as u64).to_le_bytes());
    }
    // Containers tell their length, so their end says nothing new.
    fn end(&mut self) {}
    fn bool(&mut self, value: bool) {
        self.item(b'b', &[u8::from(value)]);
    }
    fn int(&mut self, value: i128) {
        self.item(b'i', &value.to_le_bytes());
    }
    fn float(&mut self, value: f64) {
        self.item(b'f', &value.to_bits().to_le_bytes());
    }
    fn text(&mut self, value: &str) {
        self.sized(b't', value.as_bytes());
    }
    fn digest(&mut self, value: &Digest) {
        self.item(b'd', value.as_bytes());
    }
    fn file(&mut self) {
        self.item(b'p', &[]);
    }
}

/// Builds JSON; `open` holds the containers that are not closed yet, each with the field that waits for a value.
#[derive(Default)]
pub(super) struct DocumentSink {
    open: Vec<(Value, String)>,
    done: Value,
}

impl DocumentSink {
    pub(super) fn finish(self) -> Value {
        self.done
    }

    fn put(&mut self, value: Value) {
        match self.open.last_mut() {
            Some((Value::Object(map), field)) => drop(map.insert(std::mem::take(field), value)),
            Some((Value::Array(list), _)) => list.push(value),
            _ => self.done = value,
        }
    }
}

impl Sink for DocumentSink {
    fn map(&mut self, _: usize) {
        self.open.push((Value::Object(Map::new()), String::new()));
    }
    fn field(&mut self, name: &str) {
        if let Some((_, field)) = self.open.last_mut() {
            name.clone_into(field);
        }
    }
    fn list(&mut self, len: usize) {
        self.open.push((Value::Array(Vec::with_capacity(len)), String::new()));
    }
    fn end(&mut self) {
        if let Some((value, _)) = self.open.pop() {
            self.put(value);
        }
    }
    fn bool(&mut self, value: bool) {
        self.put(Value::Bool(value));
    }
    fn int(&mut self, value: i128) {
        self.put(Number::from_i128(value).map_or_else(|| Value::String(value.to_string()), Value::Number));
    }
    fn float(&mut self, value: f64) {
        self.put(Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number));
    }
    fn text(&mut self, value: &str) {
        self.put(Value::String(value.to_owned()));
    }
    fn digest(&mut self, value: &Digest) {
        self.put(Value::String(value.to_string()));
    }
    fn file(&mut self) {
        self.put(Value::String(FILE.to_owned()));
    }
}
