//! `anneal init`: a starter manifest from a model folder and a data file, with every parameter of its stages as a comment.
//!
//! The parameters come from the tables that check manifests, so what is written here cannot fall behind them. Unaware of
//! what the stages do with them.
use super::Context;
use crate::args::Init;
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::manifest::{LoadOptions, parse, project_root, shape_words};
use anneal_engine::{Failure, Param, Registry, Shape};
use anneal_stages::data::dataset::is_tat_qa;
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Widest line of a comment.
const WIDTH: usize = 110;

pub(super) fn run(args: &Init, context: &Context) -> Result<Exit, Error> {
    let format = Format::of(&args.data)?;
    if let Some(eval) = &args.eval
        && Format::of(eval)? != format
    {
        let (data, eval) = (args.data.display(), eval.display());
        return Err(Failure::user(format!("{data} and {eval} are in different formats"))
            .hint("give two files of the same format")
            .into());
    }
    if !args.model.join("config.json").is_file() {
        return Err(model_problem(&args.model).into());
    }
    let name = args.out.clone().unwrap_or_else(|| PathBuf::from("manifest.toml"));
    let root = project_root(&name);
    let path = |path: &Path| Ok::<_, Error>(toml_text(&relative(&absolute(path)?, &root)));
    let paths = Paths {
        model: path(&args.model)?,
        train: path(&args.data)?,
        eval: args.eval.as_deref().map(path).transpose()?,
    };
    let stem = args.out.as_deref().unwrap_or(&args.data).file_stem().unwrap_or_default().to_string_lossy();
    let text = manifest(&experiment_name(&stem), format, &paths, &context.registry);
    // What is given away must be right: the text is read back as any other manifest is.
    let options = LoadOptions { cwd: root.clone(), ..LoadOptions::default() };
    parse(&context.registry, text.clone(), &name, &root, &options)?;
    let Some(out) = &args.out else {
        output::print(&text)?;
        return Ok(Exit::Ok);
    };
    write_new(out, &text)?;
    output::say(&format!("wrote {}; next: anneal plan {}", out.display(), out.display()));
    Ok(Exit::Ok)
}

/// Never over a file that is there: it may be a manifest that somebody wrote.
fn write_new(out: &Path, text: &str) -> Result<(), Error> {
    if out.exists() {
        return Err(Failure::user(format!("{} is there already", out.display()))
            .hint("choose another name, or remove the file")
            .into());
    }
    let io = |e: &std::io::Error| Failure::io("write", out, e);
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent).map_err(|e| io(&e))?;
    }
    let mut file = std::fs::File::create_new(out).map_err(|e| io(&e))?;
    file.write_all(text.as_bytes()).map_err(|e| io(&e))?;
    Ok(())
}

fn model_problem(model: &Path) -> Failure {
    if model.is_file() {
        return Failure::user(format!("{} is a file, expected a model's folder", model.display()))
            .hint("make a folder of a GGUF file with `anneal convert`");
    }
    let what = if model.is_dir() { "there is no config.json in this folder" } else { "there is no such folder" };
    Failure::user(format!("{}: {what}", model.display()))
        .hint("give the folder of a Hugging Face model: config.json, weights, tokenizer.json")
}

/// The format of a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    TatQa,
    Instruct,
}

impl Format {
    /// By the first character: instruction rows are objects; one list is TAT-QA's file, or of prepared samples.
    fn of(file: &Path) -> Result<Self, Error> {
        use std::io::Read;
        let mut head = Vec::new();
        let io = |e: &std::io::Error| Failure::io("read", file, e);
        std::fs::File::open(file).and_then(|f| f.take(4096).read_to_end(&mut head)).map_err(|e| io(&e))?;
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
        match head.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[') => match is_tat_qa(file) {
                Ok(true) => Ok(Self::TatQa),
                Ok(false) => Ok(Self::Instruct),
                Err(error) => Err(Failure::user(error.to_string()).into()),
            },
            Some(b'{') => Ok(Self::Instruct),
            _ => Err(Failure::user(format!("{}: the format of this data file is not known", file.display()))
                .hint("it is TAT-QA's JSON, or JSON lines of `instruction`, `input`, `output` or of `messages`")
                .into()),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::TatQa => "tat-qa",
            Self::Instruct => "instruct",
        }
    }
}

/// Paths as TOML texts.
struct Paths {
    model: String,
    train: String,
    eval: Option<String>,
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let path = std::path::absolute(path).map_err(|e| Failure::io("find", path, &e))?;
    // Without links and `..`, as the project's root is; what is not there stays as it was written.
    Ok(path.canonicalize().unwrap_or(path))
}

/// A path below the root from there on, so that the manifest means the same in another checkout.
fn relative(path: &Path, root: &Path) -> PathBuf {
    path.strip_prefix(root).unwrap_or(path).to_owned()
}

fn toml_text(path: &Path) -> String {
    toml::Value::String(path.display().to_string()).to_string()
}

/// A name that the engine takes: other characters become `-`.
fn experiment_name(stem: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '-' };
    let name: String = stem.chars().map(fits).take(60).collect();
    let name = name.trim_start_matches(['-', '.']);
    if name.is_empty() { "experiment".to_owned() } else { name.to_owned() }
}

fn manifest(name: &str, format: Format, paths: &Paths, registry: &Registry) -> String {
    let Paths { model, train, eval } = paths;
    let split = if eval.is_some() { "eval" } else { "train" };
    let eval_file = eval.as_ref().map_or(String::new(), |eval| format!(", eval = {eval}"));
    let of = |kind: &str, set: &[&str]| comments(registry, kind, set);
    // The financial assistant of the default is none for data of other kinds.
    let (system, system_set): (&str, &[&str]) = match format {
        Format::TatQa => ("", &[]),
        Format::Instruct => ("system = \"\"\n", &["system"]),
    };
    let mut text = format!(
        "# {name}: fine-tunes a low-rank update of a model on a data file, and lets base and tuned model answer.\n\
         # Written by `anneal init`. What is commented out stands at its default; take the `#` away to change it.\n#\n\
         #   anneal plan FILE      what a run would do\n#   anneal run FILE       do it, and report\n\n\
         [experiment]\nname = \"{name}\"\nseed = 42\n# numerics = \"{}\"   # one of {}\n\n\
         [stages.base]\nkind = \"load\"\nmodel = {model}\n\n\
         [stages.data]\nkind = \"load\"\ndataset = {{ format = \"{}\", train = {train}{eval_file} }}\n\n\
         [stages.tokens]\nkind = \"tokenize\"\ninputs = {{ model = \"base\", dataset = \"data\" }}\n{system}{}\n\
         [stages.lora]\nkind = \"train-lora\"\ninputs = {{ model = \"base\", tokens = \"tokens\" }}\n\
         # A first look: 20 steps. Remove this line to train for `epochs`.\nmax_steps = 20\n{}",
        registry.numerics().first().copied().unwrap_or_default(),
        registry.numerics().join(", "),
        format.word(),
        of("tokenize", system_set),
        of("train-lora", &["max_steps"]),
    );
    let answers = |stage: &str, adapter: &str| {
        format!(
            "\n[stages.{stage}]\nkind = \"infer\"\ninputs = {{ model = \"base\"{adapter}, tokens = \"tokens\" }}\n\
             split = \"{split}\"\n# A first look: one sample. Remove this line to answer all.\nsids = [0]\n"
        )
    };
    text += &answers("base_answers", "");
    text += &of("infer", &["split", "sids"]);
    text += &answers("lora_answers", ", adapter = \"lora\"");
    for (stage, label) in [("base", "base"), ("lora", "LoRA")] {
        text += &format!(
            "\n[stages.{stage}_score]\nkind = \"evaluate\"\ninputs = {{ answers = \"{stage}_answers\", dataset = \"data\" }}\n\
             split = \"{split}\"\nlabel = \"{label}\"\n"
        );
    }
    text
}

/// The parameters of a kind as comments, but for those that are set already.
fn comments(registry: &Registry, kind: &str, set: &[&str]) -> String {
    let params = registry.get(kind).map(|kind| kind.params()).unwrap_or_default();
    params.iter().filter(|param| !set.contains(&param.name)).map(comment).collect()
}

fn comment(param: &Param) -> String {
    let unit = if param.unit.is_empty() { String::new() } else { format!(", {}", param.unit) };
    let mut words = format!("{} ({}{unit}).", param.doc.trim_end_matches('.'), shape_words(&param.shape));
    if !param.memory.is_empty() {
        words += &format!(" Memory: {}.", param.memory.trim_end_matches('.'));
    }
    let value = match &param.default {
        Some(Value::Null) | None => match &param.shape {
            Shape::Text | Shape::Path | Shape::Choice(_) => "\"...\"".to_owned(),
            Shape::Bool => "true".to_owned(),
            Shape::List(_) => "[]".to_owned(),
            Shape::Int { min, .. } => min.to_string(),
            Shape::Float { min, .. } => format!("{min:?}"),
            Shape::Table(_) | Shape::Map(_) => "{}".to_owned(),
        },
        // JSON's texts, numbers, truth values and lists are TOML's too.
        Some(default) => default.to_string(),
    };
    let absent = if matches!(param.default, Some(Value::Null)) { "   # not set by default" } else { "" };
    let lines: String = wrapped(&words).iter().map(|line| format!("# {line}\n")).collect();
    format!("{lines}# {} = {value}{absent}\n", param.name)
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = Vec::<String>::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => *line += &format!(" {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
