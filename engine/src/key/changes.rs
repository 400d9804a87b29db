//! The difference of two key documents, leaf by leaf.
//!
//! Unaware of how documents are made; any two JSON values will do.
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// A leaf that differs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Change {
    /// Where it is: `params.rank`, `inputs.model`, `sources.train`.
    pub path: String,
    /// Its value before, as JSON; absent if it is new.
    pub old: Option<String>,
    /// Its value now, as JSON; absent if it is gone.
    pub new: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |side: &Option<String>| side.as_deref().map_or_else(|| "(absent)".to_owned(), shorten);
        write!(f, "{}: {} -> {}", self.path, show(&self.old), show(&self.new))
    }
}

/// A digest by its first digits, anything else as it is.
fn shorten(text: &str) -> String {
    let bare = text.trim_matches('"');
    let digest = bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit());
    if digest { bare[..12].to_owned() } else { text.to_owned() }
}

/// What differs from `old` to `new`, sorted by path; empty if and only if the documents are equal.
pub fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let mut found = leaf_changes(&leaves(old), &leaves(new));
    if found.is_empty() && old != new {
        // The same leaves in other places, such as two files that changed their order.
        found.push(Change { path: "(order)".to_owned(), old: Some(old.to_string()), new: Some(new.to_string()) });
    }
    found
}

/// What differs between two sets of leaves, sorted by path.
pub(crate) fn leaf_changes(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Change> {
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter(|path| old.get(*path) != new.get(*path))
        .map(|path| Change { path: path.clone(), old: old.get(path).cloned(), new: new.get(path).cloned() })
        .collect()
}

/// The leaves of a document by path, each as JSON.
pub(crate) fn leaves(document: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect(document, String::new(), &mut found);
    found
}

fn collect(value: &Value, path: String, found: &mut BTreeMap<String, String>) {
    let under = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(name, value)| collect(value, under(name), found))
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            for (i, item) in items.iter().enumerate() {
                // A named digest is one leaf; should a name come twice, its place tells the two apart.
                match (item.get("name").and_then(Value::as_str), item.get("digest")) {
                    (Some(name), Some(digest)) if !found.contains_key(&under(name)) => {
                        found.insert(under(name), digest.to_string());
                    }
                    _ => collect(item, format!("{path}[{i}]"), found),
                }
            }
        }
        // A list of plain values reads best as a whole, and an empty container is a leaf.
        leaf => drop(found.insert(path, leaf.to_string())),
    }
}
