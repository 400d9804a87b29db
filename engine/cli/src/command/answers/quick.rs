//! A model and a data file without a manifest: the manifest that they amount to.
//!
//! Unaware of what is done with it.
use crate::args::{Answers, Device};
use crate::command::{Context, numerics};
use crate::exit::Error;
use anneal_engine::Failure;
use anneal_engine::graph::Pipeline;
use anneal_engine::manifest::{LoadOptions, parse, project_root};
use anneal_stages::data::dataset::is_tat_qa;
use std::path::{Path, PathBuf};

/// What the stages, and the experiment, are called.
const NAME: &str = "answers";
/// `max_length` of stage kind `tokenize` unless it is set.
const LONGEST: u64 = 4096;

/// The pipeline that loads the model and its adapter, prepares the file's samples and answers them.
///
/// # Errors
/// A path leads nowhere, or the file is of no known format.
pub(super) fn pipeline(args: &Answers, model: &Path, data: &Path, context: &Context) -> Result<Pipeline, Error> {
    let cwd = std::env::current_dir().map_err(|e| {
        Failure::user(format!("cannot find the current folder: {e}")).hint("change to a folder that exists")
    })?;
    let format = match is_tat_qa(data) {
        Ok(true) => "tat-qa",
        Ok(false) => "instruct",
        Err(error) => return Err(Failure::user(error.to_string()).into()),
    };
    if let Some(path) = [Some(model), args.adapter.as_deref()].into_iter().flatten().find(|path| !path.exists()) {
        return Err(Failure::user(format!("{}: there is no such file or folder", path.display())).into());
    }
    let numerics = numerics(args.device.unwrap_or(Device::Cpu), context)?;
    let quoted = |path: &Path| toml::Value::String(cwd.join(path).display().to_string()).to_string();
    let adapter = match &args.adapter {
        Some(dir) => format!("[stages.adapter]\nkind = \"load\"\nadapter = {}\n\n", quoted(dir)),
        None => String::new(),
    };
    let with = if args.adapter.is_some() { ", adapter = \"adapter\"" } else { "" };
    // The default would only draw a warning.
    let shortened = window(model)
        .filter(|window| *window < LONGEST)
        .map_or(String::new(), |window| format!("max_length = {window}\n"));
    let text = format!(
        "[experiment]\nname = \"{NAME}\"\nnumerics = \"{numerics}\"\n\n\
         [stages.model]\nkind = \"load\"\nmodel = {}\n\n\
         {adapter}\
         [stages.data]\nkind = \"load\"\ndataset = {{ format = \"{format}\", eval = {} }}\n\n\
         [stages.tokens]\nkind = \"tokenize\"\ninputs = {{ model = \"model\", dataset = \"data\" }}\n{shortened}\n\
         [stages.{NAME}]\nkind = \"infer\"\ninputs = {{ model = \"model\"{with}, tokens = \"tokens\" }}\n\
         max_new_tokens = {}\n",
        quoted(model),
        quoted(data),
        args.max_new_tokens
    );
    let root = project_root(&cwd.join("manifest"));
    let options = LoadOptions { cwd, ..LoadOptions::default() };
    Ok(parse(&context.registry, text, &PathBuf::from("(no manifest)"), &root, &options)?)
}

/// Problems of the manifest, which nobody wrote, as problems of what was named on the command line.
pub(super) fn without_a_manifest(error: Error) -> Error {
    let Error::Manifest(problems) = error else { return error };
    let mut messages: Vec<String> = problems.0.into_iter().map(|problem| problem.message).collect();
    messages.dedup();
    let hint = "--model, --adapter and --data name what is read; `anneal doctor` tells what else may be missing";
    Failure::user(messages.join("; ")).hint(hint).into()
}

/// The longest sequence of a model's folder.
fn window(model: &Path) -> Option<u64> {
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(model.join("config.json")).ok()?).ok()?;
    config.get("max_position_embeddings")?.as_u64().map(|window| window.max(8))
}

/// What to call the model: its folder or file, and that of the adapter.
pub(super) fn name(model: &Path, adapter: Option<&Path>) -> String {
    let last = |path: &Path| {
        // `.` has no name of its own.
        let whole = path.file_name().is_none().then(|| path.canonicalize().ok()).flatten();
        whole.as_deref().unwrap_or(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    match adapter {
        Some(adapter) => format!("{} + {}", last(model), last(adapter)),
        None => last(model),
    }
}
