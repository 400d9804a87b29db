//! `anneal diff BASE RUN`: what differs between two recorded runs. That they differ is no failure.
//!
//! Runs nothing. Unaware of how runs are read and of how differences look.
use crate::args::Diff;
use crate::exit::{Error, Exit};
use crate::output;
use crate::render::diff;
use anneal_engine::compare::{compare, document, find, load};
use anneal_engine::manifest::project_root;
use serde_json::json;
use std::path::Path;

pub(super) fn run(args: &Diff) -> Result<Exit, Error> {
    // Without a manifest the project is that of the current folder.
    let outputs = args.outputs.outputs.clone();
    let outputs = outputs.unwrap_or_else(|| project_root(Path::new("manifest.toml")).join("outputs"));
    let folder = |word: &str| find(&outputs, word, args.experiment.as_deref()).map_err(Error::Usage);
    let (base, run) = (folder(&args.base)?, folder(&args.run)?);
    let comparison = compare(&load(&base)?, &load(&run)?, &document);
    if args.json {
        output::print_json(&json!(comparison))?;
    } else if args.markdown {
        output::print(&diff::markdown(&comparison))?;
    } else {
        output::print(&diff::text(&comparison))?;
    }
    Ok(Exit::Ok)
}
