//! The models of a manifest that answer: every stage of kind `infer`, what to call it, and what its answers are about.
//!
//! Unaware of what was answered.
use crate::exit::Error;
use anneal_engine::Failure;
use anneal_engine::graph::{Node, Pipeline, StageId};
use anneal_stages::data::prompt::ResponseForm;
use anneal_stages::data::token_set::Split;
use anneal_stages::metric::Metric;
use serde::de::DeserializeOwned;

/// A model that answers.
#[derive(Debug, Clone)]
pub(super) struct Model {
    /// What to call it.
    pub(super) name: String,
    /// The stage that answers.
    pub(super) id: StageId,
    /// The stage that has the questions.
    pub(super) dataset: StageId,
    /// The split that they are in.
    pub(super) split: Split,
    /// The form that is asked for.
    pub(super) form: ResponseForm,
    /// How the stages that score it do so.
    pub(super) metrics: Vec<Metric>,
}

/// All models, in the order of the manifest.
///
/// # Errors
/// There is none.
pub(super) fn all(pipeline: &Pipeline) -> Result<Vec<Model>, Error> {
    let mut models: Vec<Model> = pipeline.ids().filter_map(|id| model(pipeline, id)).collect();
    if models.is_empty() {
        let failure = Failure::user(format!("{}: no model of it answers questions", pipeline.manifest.display()));
        return Err(failure
            .hint("a stage of kind `infer` is needed; `anneal stages infer` tells what it takes")
            .into());
    }
    // Instances of a sweep share their label.
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    for model in &mut models {
        if names.iter().filter(|name| **name == model.name).count() > 1 {
            model.name.clone_from(&pipeline.node(model.id).name);
        }
    }
    Ok(models)
}

fn model(pipeline: &Pipeline, id: StageId) -> Option<Model> {
    let node = pipeline.node(id);
    if node.kind.kind() != "infer" {
        return None;
    }
    let tokens = input(node, "tokens")?;
    let dataset = input(pipeline.node(tokens), "dataset")?;
    let scored = pipeline.dependents(id).iter().map(|by| pipeline.node(*by));
    let scores: Vec<&Node> = scored.filter(|by| by.kind.kind() == "evaluate").collect();
    Some(Model {
        name: scores.iter().find_map(|by| label(by, id)).unwrap_or_else(|| node.name.clone()),
        id,
        dataset,
        split: param(node, "split")?,
        form: param(pipeline.node(tokens), "response")?,
        metrics: scores.iter().filter_map(|by| param(by, "metric")).collect(),
    })
}

fn input(node: &Node, port: &str) -> Option<StageId> {
    node.inputs.iter().find(|(name, _)| name == port).map(|(_, from)| *from)
}

fn param<T: DeserializeOwned>(node: &Node, name: &str) -> Option<T> {
    serde_json::from_value(node.resolved().get(name)?.clone()).ok()
}

/// What a stage that scores these answers calls them.
fn label(scores: &Node, id: StageId) -> Option<String> {
    let (port, _) = scores.inputs.iter().find(|(_, from)| *from == id)?;
    if port == "answers" { param(scores, "label") } else { Some(port.clone()) }
}

/// How all of these models are scored by the manifest; the official way if it scores none, or not all the same.
pub(super) fn metric<'a>(models: impl IntoIterator<Item = &'a Model>) -> Metric {
    let mut all: Vec<Metric> = models.into_iter().flat_map(|model| model.metrics.iter().copied()).collect();
    all.dedup();
    if let [one] = all.as_slice() { *one } else { Metric::Official }
}

/// The model that a word means: its name or its stage, without regard to case if need be; its stage without `_answers`; or
/// the stage that made the model or its adapter.
///
/// # Errors
/// It means none, or several.
pub(super) fn find<'a>(pipeline: &Pipeline, models: &'a [Model], word: &str) -> Result<&'a Model, Error> {
    let stage = |model: &Model| pipeline.node(model.id).name.clone();
    let lower = |text: &str| text.to_lowercase();
    let stem = |model: &Model| {
        let base = lower(pipeline.base(model.id));
        base.strip_suffix("_answers").or(base.strip_suffix("-answers")).map(str::to_owned)
    };
    let maker = |model: &Model| {
        let node = pipeline.node(model.id);
        input(node, "adapter").or(input(node, "model")).map(|from| lower(pipeline.base(from)))
    };
    let ways: [&dyn Fn(&Model) -> bool; 5] = [
        &|model| model.name == word || stage(model) == word,
        &|model| lower(&model.name) == lower(word) || lower(&stage(model)) == lower(word),
        &|model| pipeline.base(model.id) == word,
        &|model| stem(model).is_some_and(|stem| stem == lower(word)),
        &|model| maker(model).is_some_and(|maker| maker == lower(word)),
    ];
    let known = || {
        let known: Vec<String> = models.iter().map(|model| named(pipeline, model)).collect();
        format!("the models are {}", known.join(", "))
    };
    for way in ways {
        let found: Vec<&Model> = models.iter().filter(|model| way(model)).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one),
            _ => return Err(Error::Usage(Failure::user(format!("`{word}` means several models")).hint(known()))),
        }
    }
    Err(Error::Usage(Failure::user(format!("no model is called `{word}`")).hint(known())))
}

/// A model's name, with its stage where that has another.
fn named(pipeline: &Pipeline, model: &Model) -> String {
    let stage = &pipeline.node(model.id).name;
    if *stage == model.name { format!("`{stage}`") } else { format!("`{}` (stage {stage})", model.name) }
}

/// Those of these words, in the order of the manifest; all without a word.
///
/// # Errors
/// A word means none, or several.
pub(super) fn chosen(pipeline: &Pipeline, models: &[Model], words: &[String]) -> Result<Vec<Model>, Error> {
    let wanted = words.iter().map(|word| Ok(find(pipeline, models, word)?.id)).collect::<Result<Vec<_>, Error>>()?;
    Ok(models.iter().filter(|model| wanted.is_empty() || wanted.contains(&model.id)).cloned().collect())
}
