//! Whether an adapter was made for the base that it is put beside, as far as names tell: shapes that fit do not make it fit.
//!
//! Unaware of weights.
use crate::llama::LlamaConfig;
use crate::llama::adapter::AdapterConfig;
use std::path::Path;

/// What to say where adapter and base tell the base's name, and not the same. Names are no proof, so it is no error.
pub(super) fn other(adapter: &Path, base: &LlamaConfig) -> Option<String> {
    warning(&AdapterConfig::base_name(adapter), &base.name())
}

/// What a base is called that does not tell its name.
const NAMELESS: &str = "llama";

fn warning(asked: &str, given: &str) -> Option<String> {
    let told = |name: &str| !name.is_empty() && name != NAMELESS;
    (told(asked) && told(given) && asked != given).then(|| {
        format!(
            "the adapter was made for `{asked}`, this base calls itself `{given}`: check that they are the same weights"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn an_adapter_that_names_another_base_is_told_of() {
        assert!(warning("Llama-2-7b-chat-hf", "Llama-2-7b-hf").is_some_and(|told| told.contains("the same weights")));
        for (asked, given) in [("a", "a"), ("", "a"), ("a", ""), ("llama", "a"), ("a", "llama")] {
            assert_eq!(warning(asked, given), None, "{asked} {given}");
        }
    }
}
