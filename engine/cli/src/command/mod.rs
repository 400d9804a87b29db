//! The commands, one file each, and what they share: loading a manifest, finding the store, telling errors.
//!
//! Unaware of what the commands print.
mod answers;
mod bench;
pub(crate) mod completions;
mod convert;
mod diff;
mod doctor;
mod explain;
mod graph;
mod init;
mod logits;
mod plan;
mod report;
mod run;
mod schema;
mod score;
mod stages;
mod worker;

use crate::args::{Cli, Color, Command, Device, Outputs, Source};
use crate::exit::{Error, Exit};
use crate::{output, render};
use anneal_engine::graph::Pipeline;
use anneal_engine::host::Host;
use anneal_engine::manifest::{LoadOptions, load};
use anneal_engine::slots::Gpu;
use anneal_engine::store::Store;
use anneal_engine::{Failure, Registry};
use clap::Parser;
use std::path::PathBuf;

/// What every command may need.
pub(crate) struct Context {
    /// The stage kinds.
    pub(crate) registry: Registry,
    /// What `--color` said.
    pub(crate) color: Color,
}

/// Reads the command line, runs the command, and tells its error.
pub(crate) fn main() -> Exit {
    completions::answer();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Help and version come this way too, with code 0. A closed pipe is no error.
            let _ = message.print();
            return if message.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    let context = Context { registry: anneal_stages::registry(), color: cli.color };
    let json = cli.command.json();
    match dispatch(&cli.command, &context) {
        Ok(exit) => exit,
        Err(error) => {
            tell(&error, json, context.color);
            error.exit()
        }
    }
}

fn dispatch(command: &Command, context: &Context) -> Result<Exit, Error> {
    match command {
        Command::Run(args) => run::run(args, context),
        Command::Plan(args) => plan::run(args, context),
        Command::Explain(args) => explain::run(args, context),
        Command::Graph(args) => graph::run(args, context),
        Command::Report(args) => report::run(args, context),
        Command::Answers(args) => answers::run(args, context),
        Command::Diff(args) => diff::run(args),
        Command::Score(args) => score::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Stages(args) => stages::run(args, context),
        Command::Init(args) => init::run(args, context),
        Command::Doctor(args) => doctor::run(args, context),
        Command::Logits(args) => logits::run(args, context),
        Command::Bench(args) => bench::run(args, context),
        Command::Schema => schema::run(context),
        Command::Completions(args) => completions::run(args, context),
        Command::Worker(args) => worker::run(args, context),
    }
}

impl Command {
    fn json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Plan(args) => args.json,
            Self::Explain(args) => args.json,
            Self::Graph(args) => args.json,
            Self::Report(args) => args.json,
            Self::Answers(args) => args.json,
            Self::Diff(args) => args.json,
            Self::Score(args) => args.json,
            Self::Convert(args) => args.json,
            Self::Stages(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Bench(args) => args.json(),
            Self::Init(_) | Self::Logits(_) | Self::Schema | Self::Completions(_) => false,
            Self::Worker(_) => false,
        }
    }
}

/// Tells an error: for people on standard error; as JSON on standard output, for whoever asked for JSON.
fn tell(error: &Error, json: bool, color: Color) {
    if json && let Some(value) = render::problem::json(error) {
        // Nothing is left to tell if this fails.
        let _ = output::print_json(&value);
        return;
    }
    let text = render::problem::text(error, output::colored(color, &std::io::stderr()));
    if !text.is_empty() {
        output::say(&text);
    }
}

/// The checked manifest that the arguments name.
///
/// # Errors
/// All its problems.
pub(crate) fn pipeline(source: &Source, context: &Context) -> Result<Pipeline, Error> {
    Ok(load(&context.registry, &source.manifest, &load_options(source, context)?)?)
}

/// How the arguments say to read the manifest.
///
/// # Errors
/// There is no current folder, or this build cannot compute on the device.
pub(crate) fn load_options(source: &Source, context: &Context) -> Result<LoadOptions, Error> {
    let cwd = std::env::current_dir().map_err(|e| {
        Failure::user(format!("cannot find the current folder: {e}")).hint("change to a folder that exists")
    })?;
    let mut sets = source.sets.clone();
    if let Some(device) = source.device {
        sets.push(format!("experiment.numerics={}", numerics(device, context)?));
    }
    Ok(LoadOptions { sets, cwd, root: source.root.clone(), any_size: source.yes })
}

/// The outputs folder: as asked, or else `outputs` in the project root.
pub(crate) fn outputs(args: &Outputs, pipeline: &Pipeline) -> PathBuf {
    args.outputs.clone().unwrap_or_else(|| pipeline.root.join("outputs"))
}

/// The store in the outputs folder.
///
/// # Errors
/// The folder cannot be made or read.
pub(crate) fn store(args: &Outputs, pipeline: &Pipeline) -> Result<Store, Error> {
    Ok(Store::open(&outputs(args, pipeline))?)
}

/// This machine; its GPUs are looked for only if a stage may need one.
pub(crate) fn host(pipeline: &Pipeline) -> Host {
    let asked = pipeline.stages.iter().any(|node| node.options.gpus.is_some());
    let gpus = if asked || pipeline.numerics == Device::Cuda.numerics() {
        let gpu = |(id, memory_mib)| Gpu { id, memory_mib };
        anneal_stages::gpu::usable().into_iter().map(gpu).collect()
    } else {
        Vec::new()
    };
    Host::new(gpus)
}

/// The numerics class of a device.
///
/// # Errors
/// This build cannot compute there.
fn numerics(device: Device, context: &Context) -> Result<&'static str, Error> {
    let asked = device.numerics();
    if context.registry.numerics().contains(&asked) {
        return Ok(asked);
    }
    let failure = Failure::user(format!("this build has no numerics class `{asked}`"));
    Err(Error::Usage(
        failure.hint("build with `cargo build --release --features cuda`; docs/gpu.md tells what it needs"),
    ))
}
