//! `anneal worker JOB`: one stage in a process of its own. `run` starts these; people do not.
//!
//! Unaware of what the stage does.
use super::Context;
use crate::args::Worker;
use crate::exit::{Error, Exit};

pub(super) fn run(args: &Worker, context: &Context) -> Result<Exit, Error> {
    // The code is for whoever starts one by hand; the driver reads the events and the store.
    match anneal_engine::worker::serve(&args.job, &context.registry, std::io::stdout()) {
        0 => Ok(Exit::Ok),
        _ => Ok(Exit::Failed),
    }
}
