//! Which modules an adapter's configuration says that it updates, by PEFT's rules for `target_modules`,
//! `exclude_modules` and `layers_to_transform`; so that an adapter of a base with fewer layers is told from one that
//! fits. Unaware of tensors.
use super::{Adapter, CONFIG};
use crate::llama::LlamaConfig;
use crate::llama::weights::{linear_shapes, parent_of};
use anneal_engine::Failure;
use regex::Regex;
use serde_json::Value;
use std::path::Path;

/// Modules by name, as PEFT matches them.
#[derive(Debug)]
enum Names {
    /// The whole name, or what follows a dot in it.
    Listed(Vec<String>),
    /// The whole name.
    Matching(Regex),
    /// Every linear module of a layer.
    AllLinear,
    /// Not said, or in a form that cannot be read here.
    Unknown,
}

impl Names {
    fn read(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Array(list)) => {
                let names = list.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>();
                names.map_or(Self::Unknown, Self::Listed)
            }
            Some(Value::String(all)) if all == "all-linear" => Self::AllLinear,
            // Python's patterns can do more; one that is not understood promises nothing.
            Some(Value::String(pattern)) => {
                Regex::new(&format!("^(?:{pattern})$")).map_or(Self::Unknown, Self::Matching)
            }
            _ => Self::Unknown,
        }
    }

    fn contain(&self, module: &str) -> bool {
        match self {
            Self::Listed(names) => names.iter().any(|name| {
                module.strip_suffix(name.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('.'))
            }),
            Self::Matching(pattern) => pattern.is_match(module),
            Self::AllLinear => true,
            Self::Unknown => false,
        }
    }
}

/// Checks that every linear module of a layer that the configuration in `dir` names has its update.
///
/// Without this an adapter of a base of the same widths and fewer layers would be applied to the first layers alone.
///
/// # Errors
/// A module lacks its update, which is named; the file cannot be read.
pub(super) fn check(dir: &Path, adapter: &Adapter, base: &LlamaConfig) -> Result<(), Failure> {
    let path = dir.join(CONFIG);
    let bytes = std::fs::read(&path).map_err(|e| Failure::io("read", &path, &e))?;
    let raw: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Failure::user(format!("{}:{}: not valid JSON: {e}", path.display(), e.line())))?;
    let (targets, excluded) = (Names::read(raw.get("target_modules")), Names::read(raw.get("exclude_modules")));
    let layers = match raw.get("layers_to_transform") {
        Some(Value::Array(list)) => Some(list.iter().filter_map(Value::as_u64).collect()),
        Some(Value::Number(one)) => Some(one.as_u64().into_iter().collect::<Vec<_>>()),
        _ => None,
    };
    let mut missing = Vec::new();
    let mut deepest = None;
    for layer in 0..base.num_hidden_layers {
        if layers.as_ref().is_some_and(|layers| !layers.contains(&(layer as u64))) {
            continue;
        }
        for (module, _) in linear_shapes(base) {
            let name = format!("model.layers.{layer}.{}.{module}", parent_of(module));
            if adapter.modules.contains_key(&name) || adapter.saved.contains_key(&format!("{name}.weight")) {
                deepest = Some(layer);
            } else if targets.contain(&name) && !excluded.contain(&name) {
                missing.push(name);
            }
        }
    }
    let Some(first) = missing.first() else { return Ok(()) };
    let rest = match missing.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let found = deepest.map_or("in no layer".to_owned(), |layer| format!("up to layer {layer}"));
    let what = format!(
        "`target_modules` names modules that have no update: `{first}`{rest}; there are updates {found}, the base has \
         layers 0 to {}",
        base.num_hidden_layers - 1
    );
    Err(Failure::user(format!("{}: {what}", path.display())).hint(
        "the adapter was made for a base of another depth; an adapter of some layers only says so in \
         `layers_to_transform`",
    ))
}
