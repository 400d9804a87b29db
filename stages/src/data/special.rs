//! The names of a model's special tokens, from the files of its folder. Unaware of ids and templates.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{DataError, read_text};

/// Texts of the special tokens; `None` where the model declares none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Fills up rows of unequal length (never used here; it must not be learnt).
    pub pad: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<String>,
}

impl SpecialTokens {
    /// Reads `tokenizer_config.json`, then, for what it leaves open, `special_tokens_map.json`, then the ids in
    /// `generation_config.json` and `config.json`, which `token_of` turns into text. Absent files are no error.
    ///
    /// # Errors
    /// [`DataError::Io`] or [`DataError::Json`] for a file that is there and cannot be read.
    pub fn read(dir: &Path, token_of: impl Fn(u32) -> Option<String>) -> Result<Self, DataError> {
        let mut tokens = Self::default();
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            if let Some(file) = json(&dir.join(name))? {
                tokens.fill(|key| text_of(file.get(format!("{key}_token"))?));
            }
        }
        for name in ["generation_config.json", "config.json"] {
            if let Some(file) = json(&dir.join(name))? {
                tokens.fill(|key| token_of(first_id(file.get(format!("{key}_token_id"))?)?));
            }
        }
        Ok(tokens)
    }

    /// Sets each token that is still unknown to what `find` says of "bos", "eos", "pad" or "unk".
    fn fill(&mut self, find: impl Fn(&str) -> Option<String>) {
        for (slot, key) in
            [(&mut self.bos, "bos"), (&mut self.eos, "eos"), (&mut self.pad, "pad"), (&mut self.unk, "unk")]
        {
            if slot.is_none() {
                *slot = find(key);
            }
        }
    }
}

/// A JSON file's value, or nothing if there is no such file.
pub(super) fn json(path: &Path) -> Result<Option<Value>, DataError> {
    if !path.exists() {
        return Ok(None);
    }
    let value = serde_json::from_str(&read_text(path)?);
    value.map(Some).map_err(|error| DataError::json(path, 1, &error, "expected a JSON object"))
}

/// A token is written as a string or as an object with a `content`.
fn text_of(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// An id, or the first of a list of ids.
fn first_id(value: &Value) -> Option<u32> {
    let id = value.as_array().map_or(Some(value), |ids| ids.first())?;
    u32::try_from(id.as_u64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_that_names_a_token_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let token_of = |id: u32| Some(format!("<{id}>"));
        assert_eq!(SpecialTokens::read(dir.path(), token_of).unwrap(), SpecialTokens::default());
        write(
            "config.json",
            r#"{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": -1, "unk_token_id": null}"#,
        );
        write("tokenizer_config.json", r#"{"bos_token": {"content": "<s>"}, "eos_token": null}"#);
        write("special_tokens_map.json", r#"{"bos_token": "<other>", "unk_token": "<unk>"}"#);
        let tokens = SpecialTokens::read(dir.path(), token_of).unwrap();
        let text = |token: &str| Some(token.to_owned());
        assert_eq!(tokens, SpecialTokens { bos: text("<s>"), eos: text("<2>"), pad: None, unk: text("<unk>") });
        write("tokenizer_config.json", "{\n\"bos_token\": }");
        let text = SpecialTokens::read(dir.path(), token_of).unwrap_err().to_string();
        assert!(text.contains("tokenizer_config.json:2:"), "{text}");
    }
}
