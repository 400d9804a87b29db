//! Causes as people and programs read them.
//!
//! Unaware of where they come from.
use super::{Cause, Reason};
use crate::graph::{Pipeline, StageId};
use crate::key::Change;
use serde_json::{Value, json};

impl Cause {
    /// In a line, such as ``upstream `tokens`: params.max_length: 512 -> 1024``.
    pub fn text(&self, pipeline: &Pipeline) -> String {
        self.told(&|id| pipeline.node(id).name.clone())
    }

    /// As [`Cause::text`], with stages by their names in the manifest: instances with one cause have one text.
    pub fn base_text(&self, pipeline: &Pipeline) -> String {
        self.told(&|id| pipeline.base(id).to_owned())
    }

    fn told(&self, name: &dyn Fn(StageId) -> String) -> String {
        let what = self.reason.told(name);
        self.via.last().map_or_else(|| what.clone(), |origin| format!("upstream `{}`: {what}", name(*origin)))
    }

    /// For programs: what kind of cause, the leaf with its old and new value, and the stages that it came through.
    pub fn json(&self, pipeline: &Pipeline) -> Value {
        let name = |id: &StageId| pipeline.node(*id).name.as_str();
        let (leaf, old, new) = self.reason.leaf();
        json!({
            "kind": self.reason.word(),
            "leaf": leaf,
            "old": old,
            "new": new,
            "via": self.via.iter().map(name).collect::<Vec<_>>(),
            "text": self.text(pipeline),
            "also": self.also,
        })
    }
}

impl Reason {
    /// One word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Changed(_) => "changed",
            Self::Rewired { .. } => "rewired",
            Self::Content(_) => "content",
            Self::New => "new",
            Self::NewCell => "new-cell",
            Self::Gone => "gone",
            Self::Damaged(_) => "damaged",
            Self::Dropped => "dropped",
            Self::Needed(_) => "needed",
            Self::Failed(..) => "failed",
            Self::Forced => "forced",
        }
    }

    /// The leaf with its old and new value, where there is one.
    fn leaf(&self) -> (Option<String>, Value, Value) {
        // Values in a change are JSON already.
        let value = |text: &Option<String>| {
            text.as_deref().map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
        };
        match self {
            Self::Changed(Change { path, old, new }) => (Some(path.clone()), value(old), value(new)),
            Self::Rewired { port, before, now } => (Some(format!("inputs.{port}")), json!(before), json!(now)),
            Self::Content(port) => (Some(format!("inputs.{port}")), Value::Null, Value::Null),
            _ => (None, Value::Null, Value::Null),
        }
    }

    /// In words; `name` names a stage.
    pub fn told(&self, name: &dyn Fn(StageId) -> String) -> String {
        match self {
            Self::Changed(change) => change.to_string(),
            Self::Rewired { port, before, now } => {
                let side = |side: &Option<String>| {
                    side.as_ref().map_or_else(|| "(not connected)".to_owned(), |name| format!("`{name}`"))
                };
                let another = if before.is_some() && now.is_some() { " (another stage)" } else { "" };
                format!("inputs.{port}: {} -> {}{another}", side(before), side(now))
            }
            Self::Content(port) => format!("inputs.{port}: other content, and what it was made of is not known"),
            Self::New => "never ran here".to_owned(),
            Self::NewCell => "a new cell: never ran here".to_owned(),
            Self::Gone => "its record is gone from the store".to_owned(),
            Self::Damaged(why) => format!("its result is damaged: {why}"),
            Self::Dropped => "its files were removed, and now `keep` asks for them".to_owned(),
            Self::Needed(by) => format!("its files were removed (keep = \"metrics\"), and `{}` needs them", name(*by)),
            Self::Failed(class, message) => format!("its last attempt failed ({class}): {message}"),
            Self::Forced => "asked for with --force".to_owned(),
        }
    }
}
