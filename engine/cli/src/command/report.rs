//! `anneal report`: loss, time, memory and scores of a manifest's stages, side by side, from what the store holds.
//!
//! Runs nothing. Unaware of how tables look.
use super::Context;
use crate::args::Report;
use crate::exit::{Error, Exit};
use crate::output;
use crate::render::table::{self, Look};
use anneal_engine::report::{Known, report};
use anneal_engine::resolve::resolve;
use serde_json::json;

pub(super) fn run(args: &Report, context: &Context) -> Result<Exit, Error> {
    let pipeline = super::pipeline(&args.source, context)?;
    let store = super::store(&args.outputs, &pipeline)?;
    let known: Vec<Known> = resolve(&pipeline, &store).iter().map(Known::from).collect();
    let tables = report(&pipeline, &known);
    if args.json {
        output::print_json(&json!(tables))?;
        return Ok(Exit::Ok);
    }
    output::print(&table::both(&tables, Look::Text))?;
    Ok(Exit::Ok)
}
