//! From a stage that must run to the leaf that is the first cause of it: its last key document against the present one,
//! and where only an input differs, the same of the stage that makes it.
//!
//! The name of an input's stage is in no key, so that renaming runs nothing; which stage an input came from is told from
//! who has that output now, or had it. Unaware of what would be done.
use super::{Cause, Outlook, Reason};
use crate::graph::{Pipeline, StageId};
use crate::key::{Change, Digest, changes};
use crate::resolve::{Resolved, document};
use crate::store::{Latest, Record, Store};
use serde_json::Value;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

/// A chain of results as long as this is followed no further: it would exhaust the stack.
const DEEPEST: usize = 1000;
/// Results of equal content that are compared with the present one.
const CANDIDATES: usize = 16;

/// What is known while causes are looked for.
pub(super) struct Tracer<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) found: &'a [Resolved],
    /// What was decided so far.
    pub(super) outlooks: Vec<Option<Outlook>>,
    store: &'a Store,
    latest: &'a Latest,
    /// Records by output.
    makers: OnceCell<HashMap<Digest, Vec<Arc<Record>>>>,
    /// Stages of the manifest by output.
    present: OnceCell<HashMap<Digest, StageId>>,
    /// Whether other instances of a stage ran here, by stage of the manifest.
    bases: RefCell<HashMap<u32, bool>>,
    /// What was found of a stage compared with an older result of it: many instances ask for one.
    compared: RefCell<HashMap<(StageId, Digest), Option<Cause>>>,
}

impl<'a> Tracer<'a> {
    pub(super) fn new(pipeline: &'a Pipeline, store: &'a Store, latest: &'a Latest, found: &'a [Resolved]) -> Self {
        Self {
            outlooks: vec![None; found.len()],
            pipeline,
            found,
            store,
            latest,
            makers: OnceCell::new(),
            present: OnceCell::new(),
            bases: RefCell::default(),
            compared: RefCell::default(),
        }
    }

    /// Why a stage has no result for its key.
    pub(super) fn cause(&self, id: StageId) -> Cause {
        let node = self.pipeline.node(id);
        let Some(key) = self.latest.key(&node.name) else { return Cause::own(self.never(id)) };
        let Some(before) = self.store.record(&key) else { return Cause::own(Reason::Gone) };
        self.differs(id, &before.document, 0).unwrap_or_else(|| Cause::own(Reason::Gone))
    }

    fn never(&self, id: StageId) -> Reason {
        let node = self.pipeline.node(id);
        if node.setting.is_empty() {
            return Reason::New;
        }
        let knows = || self.latest.knows(self.pipeline.base(id));
        let others = *self.bases.borrow_mut().entry(node.base).or_insert_with(knows);
        if others { Reason::NewCell } else { Reason::New }
    }

    /// What a stage's dependents get, if that is known before anything runs.
    fn output(&self, id: StageId) -> Option<Digest> {
        match &self.outlooks[id.index()] {
            Some(Outlook::Cached) => self.found[id.index()].record().map(|record| record.output),
            _ => None,
        }
    }

    /// What differs from an older key document of a stage: first in what it takes, in the order of its inputs, and then
    /// in itself.
    fn differs(&self, id: StageId, old: &Value, depth: usize) -> Option<Cause> {
        let node = self.pipeline.node(id);
        let mut own = own_changes(old, &document(self.pipeline, self.store, id, |_| None));
        for (port, from) in &node.inputs {
            let was = old["inputs"][port].as_str().and_then(|digest| digest.parse().ok());
            if let Some(mut cause) = self.input(port, *from, was, depth) {
                cause.also = own;
                return Some(cause);
            }
        }
        let mut had = old["inputs"].as_object().into_iter().flatten();
        if let Some((port, was)) = had.find(|(port, _)| node.inputs.iter().all(|(name, _)| name != *port)) {
            let was: Option<Digest> = was.as_str().and_then(|digest| digest.parse().ok());
            let before = was.map(|was| self.owner(was, None).unwrap_or_else(|| was.short()));
            let reason = Reason::Rewired { port: port.clone(), before, now: None };
            return Some(Cause { via: Vec::new(), reason, also: own });
        }
        let also = if own.is_empty() { own.clone() } else { own.split_off(1) };
        own.pop().map(|first| Cause { via: Vec::new(), reason: Reason::Changed(first), also })
    }

    fn input(&self, port: &str, from: StageId, was: Option<Digest>, depth: usize) -> Option<Cause> {
        let now = self.output(from);
        if now.is_some() && now == was {
            return None;
        }
        let name = &self.pipeline.node(from).name;
        let rewired =
            |before| Some(Cause::own(Reason::Rewired { port: port.to_owned(), before, now: Some(name.clone()) }));
        let Some(was) = was else { return rewired(None) };
        let last = self.latest.key(name).and_then(|key| self.store.brief(&key));
        if last.is_none_or(|last| last.output != was)
            && let Some(other) = self.owner(was, Some(from))
        {
            return rewired(Some(other));
        }
        let through = |cause: &Cause| {
            let via = std::iter::once(from).chain(cause.via.iter().copied()).collect();
            Cause { via, reason: cause.reason.clone(), also: Vec::new() }
        };
        let above = match (&self.outlooks[from.index()], now) {
            (Some(outlook), None) => outlook.cause().cloned(),
            _ => self.content(from, was, depth),
        };
        let unknown = || Cause::own(Reason::Content(port.to_owned()));
        Some(above.as_ref().map_or_else(unknown, through))
    }

    /// Why a stage's output is no longer what it was; it has a result.
    fn content(&self, from: StageId, was: Digest, depth: usize) -> Option<Cause> {
        if depth >= DEEPEST {
            return None;
        }
        let compare = |record: &Arc<Record>| {
            let known = self.compared.borrow().get(&(from, record.key)).cloned();
            known.unwrap_or_else(|| {
                let old = self.store.record(&record.key)?;
                let cause = self.differs(from, &old.document, depth + 1);
                self.compared.borrow_mut().insert((from, record.key), cause.clone());
                cause
            })
        };
        // Several keys may have made those bytes: the one that is most like the present key.
        let makers = self.makers().get(&was).map(Vec::as_slice).unwrap_or_default();
        makers.iter().take(CANDIDATES).filter_map(compare).min_by_key(|cause| cause.also.len())
    }

    /// Another stage that makes, or made, this content: of the manifest, or of an earlier one.
    fn owner(&self, output: Digest, except: Option<StageId>) -> Option<String> {
        let present = self.present.get_or_init(|| {
            let output = |id| Some((self.found[StageId::index(id)].record()?.output, id));
            // The first of several comes last, and stays.
            let ids: Vec<StageId> = self.pipeline.ids().collect();
            ids.into_iter().rev().filter_map(output).collect()
        });
        if let Some(id) = present.get(&output).filter(|id| Some(**id) != except) {
            return Some(self.pipeline.node(*id).name.clone());
        }
        let except = except.map(|id| self.pipeline.node(id).name.as_str());
        let keys: Vec<Digest> = self.makers().get(&output)?.iter().map(|record| record.key).collect();
        self.latest.names(&keys).find(|name| Some(*name) != except).map(str::to_owned)
    }

    fn makers(&self) -> &HashMap<Digest, Vec<Arc<Record>>> {
        self.makers.get_or_init(|| {
            let mut makers: HashMap<Digest, Vec<Arc<Record>>> = HashMap::new();
            let mut records = self.store.briefs();
            // The newest first; the key settles ties, so that the answer does not depend on the order in memory.
            records.sort_by(|a, b| b.finished.total_cmp(&a.finished).then(a.key.cmp(&b.key)));
            for record in records {
                makers.entry(record.output).or_default().push(record);
            }
            makers
        })
    }
}

/// What differs in two key documents apart from the inputs; what decides most comes first.
pub(super) fn own_changes(old: &Value, new: &Value) -> Vec<Change> {
    let without = |document: &Value, sources: bool| {
        let mut document = document.clone();
        if let Some(fields) = document.as_object_mut() {
            fields.remove("inputs");
            if !sources {
                fields.remove("sources");
            }
        }
        document
    };
    // Files that cannot be read now are no change.
    let sources = new.get("sources").is_some();
    let mut changes = changes(&without(old, sources), &without(new, sources));
    let rank = |change: &Change| {
        let field = change.path.split('.').next().unwrap_or_default();
        let order = ["kind", "version", "seed", "numerics", "params", "sources"];
        order.iter().position(|known| *known == field).unwrap_or(order.len())
    };
    changes.sort_by_key(rank);
    changes
}
