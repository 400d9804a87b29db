//! Finds what was answered already, by any run, and has the rest answered: the same stages with the missing samples,
//! through the engine, so that each is computed once.
//!
//! An answer depends on its own sample and on the stage's parameters but `sids`, so a result whose key document differs in
//! `sids` alone serves as well. Trains nothing and starts no program of the user's. Unaware of how answers look.
use super::models::Model;
use crate::command::run::check_files;
use crate::exit::Error;
use crate::render::progress::Progress;
use anneal_engine::event::Stamped;
use anneal_engine::graph::{Pipeline, StageId};
use anneal_engine::resolve::{Resolved, document, resolve_these};
use anneal_engine::run::{Options, Outcome, RunSummary};
use anneal_engine::store::{Record, Store};
use anneal_engine::{Event, Failure, FailureClass};
use anneal_stages::infer::Answer;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is needed to look things up and to run stages.
pub(super) struct Gather<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) store: Store,
    pub(super) options: Options,
    /// Nothing but the result may be written.
    pub(super) quiet: bool,
}

/// A model's answers, and why some are not there.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) rows: BTreeMap<u64, Answer>,
    pub(super) lacking: Option<String>,
}

impl Gather<'_> {
    /// What the store knows of these stages and all that they need.
    fn resolve(&self, ids: impl IntoIterator<Item = StageId>) -> Vec<Resolved> {
        let mut all = BTreeSet::new();
        for id in ids {
            all.insert(id);
            all.extend(self.pipeline.ancestors(id));
        }
        resolve_these(self.pipeline, &self.store, &self.options.host, &all)
    }

    /// The folder of a stage's result, which is made if need be.
    ///
    /// # Errors
    /// A file is missing, or the stage fails.
    pub(super) fn folder(&self, id: StageId) -> Result<PathBuf, Error> {
        let found = self.resolve([id]);
        let record = match found[id.index()].record() {
            Some(record) if self.store.has_files(record) => Some(Arc::clone(record)),
            _ => self.make(self.pipeline, &BTreeSet::from([id]))?.stages.swap_remove(id.index()).record,
        };
        let record = record.ok_or_else(|| Failure::bug("a stage that went well has no result"))?;
        Ok(self.store.tree(&record.output))
    }

    /// The answers that the manifest's own stages gave; none is made.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn own(&self, models: &[&Model]) -> Result<Vec<Option<Vec<Answer>>>, Error> {
        let found = self.resolve(models.iter().map(|model| model.id));
        let record = |model: &&Model| found[model.id.index()].record().filter(|record| self.store.has_files(record));
        let read = |record: &Arc<Record>| rows(&self.store.tree(&record.output));
        models.iter().map(|model| record(model).map(read).transpose().map_err(Error::from)).collect()
    }

    /// Each model's answers to these samples.
    ///
    /// # Errors
    /// A file is missing, or a stage fails.
    pub(super) fn answers(&self, models: &[Model], sids: &BTreeSet<u64>) -> Result<Vec<Answered>, Error> {
        let mut answered: Vec<Answered> = models.iter().map(|_| Answered::default()).collect();
        let found = self.resolve(models.iter().map(|model| model.id));
        self.look_up(models, sids, &found, &mut answered)?;
        let incomplete = |answered: &Answered| answered.rows.len() < sids.len();
        for (model, answered) in models.iter().zip(&mut answered).filter(|(_, answered)| incomplete(answered)) {
            answered.lacking = self.lacking(model, &found);
        }
        // What the answers depend on, so that their keys are known; most often it is there.
        let open = |answered: &Answered| incomplete(answered) && answered.lacking.is_none();
        let waiting = |answered: &[Answered]| -> Vec<StageId> {
            models.iter().zip(answered).filter(|(_, answered)| open(answered)).map(|(model, _)| model.id).collect()
        };
        let needed: BTreeSet<StageId> = waiting(&answered)
            .iter()
            .flat_map(|id| self.pipeline.node(*id).inputs.iter().map(|(_, from)| *from))
            .collect();
        if needed.is_empty() {
            return Ok(answered);
        }
        if needed.iter().any(|id| found[id.index()].record().is_none()) {
            self.make(self.pipeline, &needed)?;
            let found = self.resolve(models.iter().map(|model| model.id));
            self.look_up(models, sids, &found, &mut answered)?;
        }
        // The rest is answered now, under an experiment of its own: the manifest's names go on leading to its own results.
        let mut pipeline = self.pipeline.clone();
        pipeline.experiment += "-answers";
        let mut wanted = BTreeSet::new();
        for (model, answered) in models.iter().zip(&answered).filter(|(_, answered)| open(answered)) {
            let missing: Vec<u64> = sids.iter().filter(|sid| !answered.rows.contains_key(sid)).copied().collect();
            let node = &mut pipeline.stages[model.id.index()];
            // What the sweep sets is in it, so nothing is left for it to set.
            let mut params = node.resolved().into_owned();
            pipeline.overrides.push(format!("{}.sids={missing:?}", node.name));
            params["sids"] = json!(missing);
            node.params = Arc::new(params);
            node.swept = Arc::default();
            wanted.insert(model.id);
        }
        if wanted.is_empty() {
            return Ok(answered);
        }
        let summary = self.make(&pipeline, &wanted)?;
        for (model, answered) in models.iter().zip(&mut answered).filter(|(model, _)| wanted.contains(&model.id)) {
            if let Some(record) = &summary.stages[model.id.index()].record {
                take(rows(&self.store.tree(&record.output))?, sids, answered);
            }
        }
        Ok(answered)
    }

    /// Takes what the store has: the stage's own result, then those that differ in `sids` alone.
    fn look_up(
        &self,
        models: &[Model],
        sids: &BTreeSet<u64>,
        found: &[Resolved],
        answered: &mut [Answered],
    ) -> Result<(), Failure> {
        let mut others: Option<Vec<(Value, Record)>> = None;
        for (model, answered) in models.iter().zip(answered) {
            let resolved = &found[model.id.index()];
            if let Some(record) = resolved.record().filter(|record| self.store.has_files(record)) {
                take(rows(&self.store.tree(&record.output))?, sids, answered);
            }
            if resolved.key.is_none() || answered.rows.len() == sids.len() {
                continue;
            }
            let output = |from: StageId| found[from.index()].record().map(|record| record.output);
            let asked = but_sids(document(self.pipeline, &self.store, model.id, output));
            let kind = self.pipeline.node(model.id).kind.kind();
            let others = others.get_or_insert_with(|| {
                let all = self.store.records_of(kind).into_iter();
                all.map(|record| (but_sids(record.document.clone()), record)).collect()
            });
            for (_, record) in others.iter().filter(|(known, _)| *known == asked) {
                if self.store.look_up(&record.key).is_ok() {
                    take(rows(&self.store.tree(&record.output))?, sids, answered);
                }
            }
        }
        Ok(())
    }

    /// Why a model cannot answer now: what it needs would have to be trained, or made by a program of the user's.
    fn lacking(&self, model: &Model, found: &[Resolved]) -> Option<String> {
        let costly = |id: &StageId| {
            let kind = &self.pipeline.node(*id).kind;
            kind.kind().starts_with("train") || kind.is_foreign()
        };
        let there = |id: &StageId| found[id.index()].record().is_some_and(|record| self.store.has_files(record));
        let ancestors = self.pipeline.ancestors(model.id);
        let absent = ancestors.iter().rev().find(|id| costly(id) && !there(id))?;
        let (stage, manifest) = (&self.pipeline.node(*absent).name, self.pipeline.manifest.display());
        Some(format!(
            "stage `{stage}` has no result yet; `anneal run {manifest} --only {}` makes it",
            self.pipeline.base(model.id)
        ))
    }

    /// Runs stages and what they need.
    fn make(&self, pipeline: &Pipeline, ids: &BTreeSet<StageId>) -> Result<RunSummary, Error> {
        let mut selected = ids.clone();
        selected.extend(ids.iter().flat_map(|id| pipeline.ancestors(*id)));
        check_files(pipeline, &selected)?;
        let only = ids.iter().map(|id| pipeline.node(*id).name.clone()).collect();
        let options = Options { only, ..self.options.clone() };
        let summary = if self.quiet {
            anneal_engine::run::run(pipeline, &options, &|_| ())?
        } else {
            let progress = Progress::new(pipeline, std::io::stderr().is_terminal());
            // A failure is told at the end, as this command's own.
            let shown =
                |event: &Stamped| !matches!(event.event, Event::StageFailed { .. } | Event::StageSkipped { .. });
            let summary = anneal_engine::run::run(pipeline, &options, &|event| {
                if shown(event) {
                    progress.show(event);
                }
            })?;
            progress.finish();
            summary
        };
        for stage in &summary.stages {
            if let Outcome::Failed(failure, _) = &stage.outcome {
                let message = format!("stage `{}`: {}", stage.name, failure.message);
                return Err(Failure { message, ..failure.clone() }.into());
            }
        }
        if summary.interrupted {
            let failure = Failure::new(FailureClass::Interrupted, "stopped while answering");
            return Err(failure.hint("the same command goes on where it stopped").into());
        }
        Ok(summary)
    }
}

/// The lines of an answers artifact.
fn rows(folder: &Path) -> Result<Vec<Answer>, Failure> {
    anneal_stages::infer::read_answers(folder)
}

/// Keeps those of the wanted samples that are not there yet.
fn take(rows: Vec<Answer>, sids: &BTreeSet<u64>, answered: &mut Answered) {
    for row in rows.into_iter().filter(|row| sids.contains(&row.sid)) {
        answered.rows.entry(row.sid).or_insert(row);
    }
}

/// A key document without the parameter `sids`.
fn but_sids(mut document: Value) -> Value {
    if let Some(params) = document.get_mut("params").and_then(Value::as_object_mut) {
        params.remove("sids");
    }
    document
}
