//! `anneal report`: loss, time, memory and scores of a manifest's stages, side by side, from what the store holds.
//!
//! Runs nothing. Unaware of how tables look.
use super::Context;
use crate::args::Report;
use crate::exit::{Error, Exit};
use crate::output;
use crate::render::table::{self, Look};
use anneal_engine::Failure;
use anneal_engine::event::Step;
use anneal_engine::graph::Pipeline;
use anneal_engine::key::Digest;
use anneal_engine::recording;
use anneal_engine::report::query::{self, Condition};
use anneal_engine::report::{Known, report};
use anneal_engine::resolve::{Resolved, resolve};
use anneal_engine::store::Store;
use serde_json::json;

pub(super) fn run(args: &Report, context: &Context) -> Result<Exit, Error> {
    let pipeline = super::pipeline(&args.source, context)?;
    let store = super::store(&args.outputs, &pipeline)?;
    let resolved = resolve(&pipeline, &store, &super::host(&pipeline));
    let known: Vec<Known> = resolved.iter().map(Known::from).collect();
    let mut tables = report(&pipeline, &known);
    let conditions = args.filter.iter().map(|text| Condition::parse(text)).collect::<Result<Vec<_>, _>>();
    query::filter(&mut tables, &conditions.map_err(Error::Usage)?).map_err(Error::Usage)?;
    if let Some(key) = &args.sort {
        query::sort(&mut tables, key).map_err(Error::Usage)?;
    }
    let best = match &args.best {
        Some(metric) => Some((metric, query::best(&tables, metric).map_err(Error::Usage)?)),
        None => None,
    };
    if let Some(path) = &args.html {
        let page = table::html::page(&tables, &curves(&pipeline, &store, &resolved));
        std::fs::write(path, page).map_err(|e| Failure::io("write", path, &e))?;
    }
    if args.json {
        let mut value = json!(tables);
        if let Some((_, best)) = best {
            value["best"] = json!(best);
        }
        output::print_json(&value)?;
        return Ok(Exit::Ok);
    }
    let mut text = table::both(&tables, if args.markdown { Look::Markdown } else { Look::Text });
    if let Some((metric, best)) = best {
        text += &format!("\n\n{}", table::best(&tables, metric, best));
    }
    output::print(&text)?;
    Ok(Exit::Ok)
}

/// The training steps of every stage that trained, by its name, from the runs' events.
fn curves(pipeline: &Pipeline, store: &Store, resolved: &[Resolved]) -> Vec<(String, Vec<Step>)> {
    let stages = pipeline.stages.iter().zip(resolved);
    let trained: Vec<(String, Digest)> = stages
        .filter_map(|(node, stage)| Some((node, stage.record()?)))
        .filter(|(_, record)| record.metrics.contains_key("train_loss"))
        .map(|(node, record)| (node.name.clone(), record.key))
        .collect();
    let keys: Vec<Digest> = trained.iter().map(|(_, key)| *key).collect();
    let mut steps = recording::steps(store.outputs(), &keys);
    trained.into_iter().filter_map(|(name, key)| Some((name, steps.remove(&key)?))).collect()
}
