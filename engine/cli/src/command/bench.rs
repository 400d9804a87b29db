//! `anneal bench`: what a model costs on this machine, without a manifest.
//!
//! Unaware of how anything is measured.
mod generated;
mod trained;

use super::Context;
use crate::args::{Bench, BenchLoad, BenchOptions, BenchTokenize};
use crate::exit::{Error, Exit};
use crate::output;
use anneal_stages::bench::{BenchModel, load, median, tokenize};
use serde_json::{Value, json};

impl Bench {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Train(args) => args.options.json,
            Self::Generate(args) => args.options.json,
            Self::Load(args) => args.options.json,
            Self::Tokenize(args) => args.json,
        }
    }
}

pub(super) fn run(args: &Bench, context: &Context) -> Result<Exit, Error> {
    let (rows, table) = match args {
        Bench::Train(args) => trained::trained(args, context)?,
        Bench::Generate(args) => generated::generated(args, context)?,
        Bench::Load(args) => (loaded(args, context)?, String::new()),
        Bench::Tokenize(args) => (tokenized(args)?, String::new()),
    };
    if args.json() {
        let fields = rows.into_iter().map(|row| (row.key.to_owned(), row.value)).collect();
        output::print_json(&Value::Object(fields))?;
    } else {
        let width = rows.iter().map(|row| row.label.len()).max().unwrap_or(0);
        let lines = rows.iter().filter(|row| !row.label.is_empty());
        let text: String = lines.map(|row| format!("{:<width$}  {}\n", row.label, row.shown)).collect();
        output::print(&(text + &table))?;
    }
    Ok(Exit::Ok)
}

/// One figure: for JSON, and, if it has a label, for people.
struct Row {
    key: &'static str,
    value: Value,
    label: &'static str,
    shown: String,
}

fn row(key: &'static str, value: impl Into<Value>, label: &'static str, shown: String) -> Row {
    Row { key, value: value.into(), label, shown }
}

fn hidden(key: &'static str, value: impl Into<Value>) -> Row {
    row(key, value, "", String::new())
}

/// What every measurement of a model begins with.
fn head(options: &BenchOptions, numerics: &str) -> Vec<Row> {
    vec![
        row("model", options.model.clone(), "model", options.model.clone()),
        row("numerics", numerics, "numerics", numerics.to_owned()),
        hidden("threads", anneal_stages::threads()),
        hidden("version", env!("CARGO_PKG_VERSION")),
    ]
}

fn memory(peak_mib: Option<f64>) -> Row {
    row("peak_mib", peak_mib, "peak memory", peak_mib.map_or("unknown".to_owned(), |mib| format!("{mib:.0} MiB")))
}

fn seconds(value: f64) -> String {
    format!("{value:.3} s")
}

fn loaded(args: &BenchLoad, context: &Context) -> Result<Vec<Row>, Error> {
    let numerics = super::numerics(args.options.device, context)?;
    let measured = load::run(&BenchModel::find(&args.options.model)?, numerics, args.options.seed)?;
    let mut rows = head(&args.options, numerics);
    rows.extend([
        row("load_seconds", measured.load_seconds, "weights there", seconds(measured.load_seconds)),
        row("first_logit_seconds", measured.first_logit_seconds, "first logit", seconds(measured.first_logit_seconds)),
        memory(measured.peak_mib),
    ]);
    Ok(rows)
}

fn tokenized(args: &BenchTokenize) -> Result<Vec<Row>, Error> {
    let measured = tokenize::run(&args.model, &args.chat, &args.data, args.repeats as usize)?;
    let time = median(&measured.seconds);
    let rate = measured.questions as f64 / time.max(1e-12);
    Ok(vec![
        row("questions", measured.questions, "questions", measured.questions.to_string()),
        row("tokens", measured.tokens, "tokens", measured.tokens.to_string()),
        row("open_seconds", measured.open_seconds, "reading the files", seconds(measured.open_seconds)),
        row("seconds", time, "tokenizing (median)", format!("{}, {rate:.0} questions a second", seconds(time))),
        hidden("all_seconds", json!(measured.seconds)),
        hidden("threads", anneal_stages::threads()),
    ])
}
