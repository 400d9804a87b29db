//! `anneal run`: runs what changed, shows how it goes, and ends with a summary and the report.
//!
//! Unaware of scheduling and of what stages do.
use super::Context;
use crate::args::{Device, Run};
use crate::exit::{Error, Exit};
use crate::render::progress::Progress;
use crate::render::table;
use crate::{output, render};
use anneal_engine::diagnostic::Diagnostics;
use anneal_engine::event::Stamped;
use anneal_engine::graph::{Pipeline, StageId};
use anneal_engine::memo::{Answer, Question, Recalled, recall, remember};
use anneal_engine::report::{Known, report};
use anneal_engine::run::{Options, Outcome, RunSummary};
use anneal_engine::select::{named, select};
use anneal_engine::slots::Slots;
use anneal_engine::stop::Stop;
use anneal_engine::worker::WorkerCommand;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::time::Instant;

/// A run of more stages than this ends without a table of its results.
const READABLE: usize = 1000;

pub(super) fn run(args: &Run, context: &Context) -> Result<Exit, Error> {
    let clock = Instant::now();
    let question = question(args, context)?;
    let Recalled { answer, complaint } = question.as_ref().map(recall).unwrap_or_default();
    if let Some(complaint) = complaint {
        output::say(&format!("warning: {complaint}"));
    }
    if let Some(Answer { stages, text }) = answer {
        output::print(&format!("{}\n{text}", nothing_to_do(stages, clock.elapsed().as_secs_f64())))?;
        return Ok(Exit::Ok);
    }
    let pipeline = super::pipeline(&args.source, context)?;
    let selected = select(&pipeline, &args.only, &args.cells).map_err(Error::Usage)?;
    named(&pipeline, &args.force).map_err(Error::Usage)?;
    check_files(&pipeline, &selected)?;
    let host = super::host(&pipeline);
    // Where GPUs cannot be counted, two trainings on one would take each other's memory.
    let alone = pipeline.numerics == Device::Cuda.numerics() && host.gpus.is_empty();
    let options = Options {
        outputs: super::outputs(&args.outputs, &pipeline),
        jobs: args.jobs.map(|jobs| jobs as usize).or(alone.then_some(1)),
        only: args.only.clone(),
        cells: args.cells.clone(),
        force: args.force.clone(),
        retry: args.retry.iter().map(|retry| retry.class()).collect(),
        host,
        slots: Slots::host_folder(),
        keep_going: !args.fail_fast,
        record: args.record,
        // Programs are told of everything; people see no more than a table.
        tell_each_up_to: if args.json { usize::MAX } else { READABLE },
        worker: WorkerCommand::this_program()?,
        stop: Stop::on_signals()?,
    };
    if args.json {
        let open = Cell::new(true);
        let summary = anneal_engine::run::run(&pipeline, &options, &|event| {
            // When nobody reads any more, the run goes on for its results.
            open.set(open.get() && write_json(event));
        })?;
        return Ok(exit(&summary));
    }
    let progress = Progress::new(&pipeline, std::io::stderr().is_terminal());
    let summary = anneal_engine::run::run(&pipeline, &options, &|event| progress.show(event))?;
    progress.finish();
    let results = results(&pipeline, &selected, &summary, args);
    if let (Some(question), false) = (&question, summary.found.is_empty()) {
        remember(question, &pipeline, &summary.found, &results);
    }
    let text = format!("{}\n{results}", headline(&summary));
    let exit = exit(&summary);
    // The process ends here; to take a large graph apart piece by piece would only keep people waiting.
    std::mem::forget((pipeline, selected, summary));
    match output::print(&text) {
        // How the run went outweighs that nobody wants to know.
        Err(Error::ClosedPipe) => Ok(exit),
        printed => printed.map(|()| exit),
    }
}

/// The results as a table, or where to find them if they are too many to read.
fn results(pipeline: &Pipeline, selected: &BTreeSet<StageId>, summary: &RunSummary, args: &Run) -> String {
    if pipeline.stages.len() > READABLE {
        let manifest = args.source.manifest.display();
        return format!("the results are in `anneal report {manifest}`; it takes --filter, --sort and --best\n");
    }
    let known: Vec<Known> = summary.stages.iter().map(Known::from).collect();
    let mut tables = report(pipeline, &known);
    // What nobody asked for was not looked at; `report` tells how it stands.
    let asked: BTreeSet<&str> = selected.iter().map(|id| pipeline.node(*id).name.as_str()).collect();
    tables.results.retain(|row| asked.contains(row.stage.as_str()));
    if tables.results.is_empty() {
        String::new()
    } else {
        format!("\n{}\n", table::results(&tables, table::Look::Text))
    }
}

/// Before anything runs, tells of every file that is not there and that a stage of this run would read.
pub(super) fn check_files(pipeline: &Pipeline, selected: &BTreeSet<StageId>) -> Result<(), Error> {
    let mut missing: Vec<_> = selected.iter().flat_map(|id| pipeline.node(*id).missing.iter().cloned()).collect();
    // Instances of one stage miss the same file.
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(Diagnostics(missing).into()) }
}

fn write_json(event: &Stamped) -> bool {
    let Ok(mut line) = serde_json::to_string(event) else { return true };
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_ok()
}

fn exit(summary: &RunSummary) -> Exit {
    if summary.interrupted {
        return Exit::Interrupted;
    }
    let class = |outcome: &Outcome| match outcome {
        Outcome::Failed(failure, _) => Some(failure.class),
        _ => None,
    };
    Exit::of_all(summary.stages.iter().filter_map(|stage| class(&stage.outcome)))
}

/// What this run's keys follow from, if it is one that may have been done before in all its parts.
fn question(args: &Run, context: &Context) -> Result<Option<Question>, Error> {
    let asked = [&args.only, &args.cells, &args.force].iter().any(|names| !names.is_empty());
    if asked || !args.retry.is_empty() || args.record || args.json {
        return Ok(None);
    }
    let options = super::load_options(&args.source, context)?;
    let outputs = args.outputs.outputs.as_deref();
    Ok(Question::new(&args.source.manifest, &options, outputs, context.registry.numerics()))
}

fn nothing_to_do(stages: usize, seconds: f64) -> String {
    let time = render::progress::duration(seconds);
    format!("nothing to do: {} in {time}", render::progress::count(stages, "cached stage"))
}

fn headline(summary: &RunSummary) -> String {
    let RunSummary { executed, cached, failed, skipped, interrupted, seconds, .. } = summary;
    let time = render::progress::duration(*seconds);
    if !interrupted && *executed + *failed + *skipped == 0 {
        return nothing_to_do(*cached, *seconds);
    }
    let mut parts = vec![format!("{executed} executed"), format!("{cached} cached")];
    parts.extend((*failed > 0).then(|| format!("{failed} failed")));
    parts.extend((*skipped > 0).then(|| format!("{skipped} not run")));
    let folder = summary.folder.iter().map(|folder| format!("; {}", folder.display())).collect::<String>();
    let line = format!("{} in {time}{folder}", parts.join(", "));
    if *interrupted { format!("interrupted: {line}\nthe same command goes on where it stopped") } else { line }
}
