//! `anneal plan`: what a run would do, and the first cause of it, without doing it.
//!
//! Unaware of how causes are found and of how they are shown.
use super::Context;
use crate::args::Plan;
use crate::exit::{Error, Exit};
use crate::{output, render};
use anneal_engine::cause::{Forecast, Outlook, Wish, forecast};
use anneal_engine::graph::{Pipeline, StageId};
use anneal_engine::select::{named, select};
use serde_json::{Map, Value, json};

pub(super) fn run(args: &Plan, context: &Context) -> Result<Exit, Error> {
    let pipeline = super::pipeline(&args.source, context)?;
    let wish = Wish {
        selected: select(&pipeline, &args.only, &args.cells).map_err(Error::Usage)?,
        forced: named(&pipeline, &args.force).map_err(Error::Usage)?,
        retry: args.retry.iter().map(|retry| retry.class()).collect(),
    };
    let store = super::store(&args.outputs, &pipeline)?;
    let forecast = forecast(&pipeline, &store, &super::host(&pipeline), &wish);
    let told = || pipeline.order().iter().filter_map(|id| Some((*id, forecast.outlooks[id.index()].as_ref()?)));
    if args.json {
        return write_json(&pipeline, &forecast, told()).map(|()| Exit::Ok);
    }
    let color = output::colored(context.color, &std::io::stderr());
    let mut missing: Vec<_> = told().flat_map(|(id, _)| pipeline.node(id).missing.iter()).collect();
    // Instances of one stage miss the same file.
    missing.dedup();
    for missing in missing {
        output::say(&render::problem::diagnostic(&missing.clone().warning(), color));
    }
    let told: Vec<_> = told().collect();
    output::stream(render::plan::text(&pipeline, &told, args.all))?;
    // The process ends here; to take a large graph apart piece by piece would only keep people waiting.
    std::mem::forget((pipeline, store, forecast, wish));
    Ok(Exit::Ok)
}

/// One object, a stage a line, written as it is made: of a large sweep the whole would not fit into memory twice.
fn write_json<'a>(
    pipeline: &Pipeline,
    forecast: &Forecast,
    stages: impl Iterator<Item = (StageId, &'a Outlook)>,
) -> Result<(), Error> {
    let head = format!("{{\"experiment\": {}, \"stages\": [", json!(pipeline.experiment));
    let line = |(at, (id, outlook))| {
        format!("{}\n  {}", if at == 0 { "" } else { "," }, as_json(pipeline, forecast, id, outlook))
    };
    let all = std::iter::once(head).chain(stages.enumerate().map(line));
    output::stream(all.chain(std::iter::once("\n]}\n".to_owned())))
}

/// A stage for programs.
pub(super) fn as_json(pipeline: &Pipeline, forecast: &Forecast, id: StageId, outlook: &Outlook) -> Value {
    let (node, resolved) = (pipeline.node(id), &forecast.found[id.index()]);
    let names = |ids: &[StageId]| ids.iter().map(|id| pipeline.node(*id).name.clone()).collect::<Vec<_>>();
    let (after, failure, again) = match outlook {
        Outlook::After(waits, _) => (names(waits), None, None),
        Outlook::Stuck(from) => (names(&[*from]), None, None),
        Outlook::Failed(failure, again) => (Vec::new(), Some(failure), again.as_ref()),
        Outlook::Blocked(failure) => (Vec::new(), Some(failure), failure.hint.as_ref()),
        Outlook::Cached | Outlook::Run(_) => (Vec::new(), None, None),
    };
    let set = |(axis, value): &(u32, u32)| {
        let axis = &pipeline.sweep.axes[*axis as usize];
        (axis.key.clone(), axis.values[*value as usize].clone())
    };
    json!({
        "name": node.name,
        "base": pipeline.base(id),
        "kind": node.kind.kind(),
        "cell": pipeline.cell(id),
        "setting": node.setting.iter().map(set).collect::<Map<_, _>>(),
        "state": render::plan::state(outlook),
        "after": after,
        "cause": outlook.cause().map(|cause| cause.json(pipeline)),
        "failure": failure,
        "again": again,
        "key": resolved.key,
        "output": resolved.record().map(|record| record.output),
        "problems": *node.missing,
    })
}
