//! A key document as text: a leaf a line, what belongs together indented.
//!
//! Unaware of what the leaves mean.
use serde_json::Value;

/// Appends a document, indented by as many spaces.
pub(crate) fn lines(value: &Value, indent: usize, text: &mut String) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                *text += &format!("{:indent$}{name}\n", "");
                lines(value, indent + 2, text);
            }
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
                *text += &format!("{:indent$}{name}\n", "");
                for item in items {
                    let part = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
                    *text += &format!("{:indent$}  {}: {}\n", "", part("name"), part("digest"));
                }
            }
            Value::Object(_) | Value::Array(_) if value.as_array().is_none_or(Vec::is_empty) => {
                *text += &format!("{:indent$}{name}: none\n", "");
            }
            Value::String(word) => *text += &format!("{:indent$}{name}: {word}\n", ""),
            leaf => *text += &format!("{:indent$}{name}: {leaf}\n", ""),
        }
    }
}
