//! Action keys: the digest of everything that decides a stage's output, and the document that says what went in.
//!
//! One walk (`walk`) feeds both the hasher and the document, so that an explanation cannot disagree with its key.
//! Unaware of paths, names of stages, times, devices and of what is cached.
mod changes;
#[cfg(test)]
mod map_tests;
mod sink;
#[cfg(test)]
mod tests;

use crate::graph::Node;
use crate::param::{Param, Shape};
use serde_json::Value;
use sink::{DocumentSink, HashSink, Sink};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub use changes::{Change, changes};
pub(crate) use changes::{leaf_changes, leaves};

/// Version of the encoding; part of every key. Raised when the walk or the encoding changes.
///
/// 1: first version.
pub const SCHEMA: u8 = 1;

/// A BLAKE3 digest; hexadecimal as text and in JSON.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// A digest that was computed elsewhere.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Appends its hexadecimal digits.
    pub(crate) fn push_hex(&self, text: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
        text.extend(self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    }

    /// Its first twelve hexadecimal digits: enough for people.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

/// A map by digest. A digest is as good as random already, so its first bytes are its hash.
pub(crate) type DigestMap<V> = std::collections::HashMap<Digest, V, std::hash::BuildHasherDefault<FirstBytes>>;

/// Hashes a digest, or what is as random, by taking its first eight bytes.
#[derive(Debug, Default)]
pub(crate) struct FirstBytes(u64);

impl std::hash::Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }
    // The length, which is always the same.
    fn write_usize(&mut self, _: usize) {}
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(64);
        self.push_hex(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no digest: 64 hexadecimal digits were expected")]
pub struct DigestError(String);

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        // Only lower case, so that a digest has one spelling and file names compare as text.
        let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let hash = lower.then(|| blake3::Hash::from_hex(text).ok()).flatten();
        hash.map(Self::from).ok_or_else(|| DigestError(text.chars().take(80).collect()))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A key and its explanation.
#[derive(Debug, Clone, PartialEq)]
pub struct Keyed {
    /// The action key.
    pub key: Digest,
    /// All that went into it, readable; see [`changes`].
    pub document: Value,
}

/// The action key of a stage: `inputs` are the content digests of its input artifacts by port, `sources` the names
/// and content digests of the files that it reads, in the order of [`Stage::sources`](crate::Stage::sources).
pub fn action_key(node: &Node, inputs: &BTreeMap<&str, Digest>, sources: &[(&str, Digest)], numerics: &str) -> Keyed {
    let mut document = DocumentSink::default();
    walk(&Fields { node, inputs, sources, numerics }, &mut document);
    Keyed { key: action_digest(node, inputs, sources, numerics), document: document.finish() }
}

/// [`action_key`] without the document, for when there is nothing to explain.
pub(crate) fn action_digest(
    node: &Node,
    inputs: &BTreeMap<&str, Digest>,
    sources: &[(&str, Digest)],
    numerics: &str,
) -> Digest {
    let mut hash = HashSink::new();
    walk(&Fields { node, inputs, sources, numerics }, &mut hash);
    hash.finish()
}

/// The reasons for which a stage runs again.
struct Fields<'a> {
    node: &'a Node,
    inputs: &'a BTreeMap<&'a str, Digest>,
    sources: &'a [(&'a str, Digest)],
    numerics: &'a str,
}

/// Says every field of a key, in a fixed order, to a sink.
fn walk(fields: &Fields<'_>, sink: &mut dyn Sink) {
    let Fields { node, inputs, sources, numerics } = fields;
    sink.map(8);
    // How the rest is encoded.
    sink.field("schema");
    sink.int(i128::from(SCHEMA));
    // What the stage does,
    sink.field("kind");
    sink.text(node.kind.kind());
    // in which edition of its code,
    sink.field("version");
    sink.int(i128::from(node.kind.version()));
    // from which seed,
    sink.field("seed");
    sink.int(i128::from(node.seed));
    // with which arithmetic,
    sink.field("numerics");
    sink.text(numerics);
    // with which parameters,
    sink.field("params");
    node.with_params(|params| table(&node.declared, params, sink));
    // on which artifacts
    sink.field("inputs");
    sink.map(inputs.len());
    for (port, digest) in *inputs {
        sink.field(port);
        sink.digest(digest);
    }
    sink.end();
    // and files. A list: the order is the kind's, and names could repeat.
    sink.field("sources");
    sink.list(sources.len());
    for (name, digest) in *sources {
        sink.map(2);
        sink.field("name");
        sink.text(name);
        sink.field("digest");
        sink.digest(digest);
        sink.end();
    }
    sink.end();
    sink.end();
}

/// A table of parameters, by name. An optional one that is absent is left out, so that a kind can gain another
/// without making its old results unreachable.
fn table(params: &[Param], values: &Value, sink: &mut dyn Sink) {
    let mut present: Vec<(&Param, &Value)> = params
        .iter()
        .filter_map(|param| {
            let value = values.get(param.name).or(param.default.as_ref()).unwrap_or(&Value::Null);
            let absent = value.is_null() && param.default == Some(Value::Null);
            (!absent).then_some((param, value))
        })
        .collect();
    present.sort_by_key(|(param, _)| param.name);
    sink.map(present.len());
    for (param, value) in present {
        sink.field(param.name);
        typed(&param.shape, value, sink);
    }
    sink.end();
}

/// A value as its shape has it, not as it was written: `1` given for a float equals `1.0`.
fn typed(shape: &Shape, value: &Value, sink: &mut dyn Sink) {
    match (shape, value) {
        (Shape::Bool, Value::Bool(value)) => sink.bool(*value),
        (Shape::Int { .. }, Value::Number(number)) if number.is_i64() || number.is_u64() => {
            sink.int(number.as_i64().map(i128::from).or(number.as_u64().map(i128::from)).unwrap_or_default());
        }
        (Shape::Float { .. }, Value::Number(number)) => sink.float(number.as_f64().unwrap_or(f64::NAN)),
        (Shape::Text | Shape::Choice(_), Value::String(text)) => sink.text(text),
        // What lies there is under `sources`; here only that there is something.
        (Shape::Path, Value::String(_)) => sink.file(),
        (Shape::List(item), Value::Array(items)) => {
            sink.list(items.len());
            items.iter().for_each(|value| typed(item, value, sink));
            sink.end();
        }
        (Shape::Map(item), Value::Object(values)) => {
            let sorted: BTreeMap<&String, &Value> = values.iter().collect();
            sink.map(sorted.len());
            for (key, value) in sorted {
                sink.field(key);
                typed(item, value, sink);
            }
            sink.end();
        }
        (Shape::Table(params), Value::Object(_)) => table(params, value, sink),
        // The manifest's checks let no such value through; should one come, its text still tells it from others.
        (_, other) => sink.text(&other.to_string()),
    }
}
