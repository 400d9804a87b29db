//! Results published without running anything: a file that names its key, as if the stage had written it.
//!
//! Unaware of what stages do.
use anneal_engine::Source;
use anneal_engine::cause::{Forecast, Outlook};
use anneal_engine::graph::{Pipeline, StageId};
use anneal_engine::hash::Stamp;
use anneal_engine::host::Host;
use anneal_engine::key::Digest;
use anneal_engine::options::Keep;
use anneal_engine::resolve::{document, resolve};
use anneal_engine::store::{Draft, Latest, Store};
use std::collections::BTreeMap;

/// Publishes a result for each of these stages whose inputs have one and which has none itself.
pub(crate) fn publish(pipeline: &Pipeline, store: &Store, which: &dyn Fn(&str) -> bool) {
    let mut latest = Latest::of(store, &pipeline.experiment);
    for &id in pipeline.order() {
        let found = resolve(pipeline, store, &Host::default());
        let node = pipeline.node(id);
        let Some(key) = found[id.index()].key.filter(|_| which(&node.name)) else { continue };
        let output = |from: StageId| found[from.index()].record().map(|record| record.output);
        let record = match found[id.index()].record() {
            Some(record) => record.clone(),
            None => store.publish(draft(pipeline, store, id, key, &output)).unwrap(),
        };
        latest.link(&node.name, record.key, &record.output).unwrap();
    }
    latest.save().unwrap();
}

fn draft(
    pipeline: &Pipeline,
    store: &Store,
    id: StageId,
    key: Digest,
    output: &dyn Fn(StageId) -> Option<Digest>,
) -> Draft {
    let node = pipeline.node(id);
    let folder = store.workspace(&key).unwrap();
    std::fs::write(folder.join("out/result"), key.to_string()).unwrap();
    let sources: Vec<(Source, Stamp, Digest)> = Vec::new();
    Draft {
        key,
        document: document(pipeline, store, id, output),
        kind: node.kind.kind().to_owned(),
        version: node.kind.version(),
        artifact: node.output.to_owned(),
        folder,
        references: Vec::new(),
        sources,
        keep: Keep::All,
        metrics: BTreeMap::new(),
        started: 0.0,
        seconds: 0.0,
        peak_mib: None,
    }
}

/// Nothing would run.
pub(crate) fn all_cached(forecast: &Forecast) -> bool {
    forecast.outlooks.iter().all(|outlook| *outlook == Some(Outlook::Cached))
}
