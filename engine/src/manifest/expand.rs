//! From checked stages and a sweep to the nodes of the graph: an instance of a stage for each combination that reaches
//! it, with the kind's own checks on every distinct set of parameters.
//!
//! Unaware of text, but for the places that problems point at.
use super::stages::Draft;
use super::sweep::Draught;
use super::tree::Table;
use super::values::Checker;
use crate::diagnostic::{Diagnostic, Place};
use crate::graph::{Node, StageId};
use crate::options::StageOptions;
use crate::stage::{Problem, Source, Stage};
use crate::sweep::{Layout, Setting, Sweep};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Problems of one stage's cells that are told; the others would repeat them.
const ENOUGH: usize = 5;
/// A longer name of an instance is replaced by a digest: it becomes part of file names.
const LONGEST: usize = 80;

/// The nodes in the order of the manifest, an order to run them in, and the axes that reach each stage.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub(super) nodes: Vec<Node>,
    pub(super) order: Vec<StageId>,
    pub(super) reach: Vec<BTreeSet<u32>>,
}

/// A stage's own parameters in some cells.
struct Variant {
    params: Arc<Value>,
    sources: Arc<[Source]>,
    missing: Arc<[Diagnostic]>,
}

/// Makes the nodes. What is wrong with a cell is reported; the result is whole only if nothing was.
pub(super) fn expand(
    checker: &mut Checker<'_>,
    drafts: &[Draft<'_>],
    draught: &Draught<'_>,
    sweep: &Sweep,
    seed: u64,
) -> Expanded {
    let inputs: Vec<Vec<usize>> =
        drafts.iter().map(|draft| draft.inputs.iter().map(|link| link.from.index()).collect()).collect();
    let order = base_order(&inputs);
    let layout = Layout::new(sweep, &inputs, &order);
    let mut begins = Vec::with_capacity(drafts.len());
    let mut total = 0;
    for stage in 0..drafts.len() {
        begins.push(total);
        total += layout.count(stage);
    }
    let mut nodes = Vec::with_capacity(total);
    for (stage, draft) in drafts.iter().enumerate() {
        let (Some(kind), Some(params), Some(options)) = (&draft.kind, &draft.params, &draft.options) else { continue };
        let before = checker.problems.len();
        let own: Vec<Variant> = (0..layout.variants(stage))
            .map(|variant| {
                let setting = layout.variant_setting(stage, variant);
                let asked = Asked { checker, draft, draught, sweep };
                asked.variant(kind.as_ref(), params, &setting)
            })
            .collect();
        shorten(&mut checker.problems, before);
        let options: &Arc<StageOptions> = options;
        for instance in 0..layout.count(stage) {
            let setting = layout.setting(stage, instance);
            let variant = &own[layout.variant(stage, instance)];
            let input = |link: &super::stages::Link<'_>| {
                let from = link.from.index();
                let at = begins[from] + layout.upstream(stage, instance, from);
                (link.name.to_owned(), StageId(at as u32))
            };
            nodes.push(Node {
                name: name(draft.name, stage, sweep, &setting),
                base: stage as u32,
                kind: Arc::clone(kind),
                declared: Arc::clone(&draft.declared),
                params: Arc::clone(&variant.params),
                seed: seed_of(sweep, &setting).unwrap_or(seed),
                options: Arc::clone(options),
                inputs: draft.inputs.iter().map(input).collect(),
                output: draft.output.unwrap_or_default(),
                sources: Arc::clone(&variant.sources),
                missing: Arc::clone(&variant.missing),
                setting,
            });
        }
    }
    let instances = |stage: usize| (0..layout.count(stage)).map(move |i| (stage, i));
    let order = order
        .iter()
        .flat_map(|stage| instances(*stage))
        .map(|(stage, instance)| StageId((begins[stage] + instance) as u32))
        .collect();
    Expanded { nodes, order, reach: layout.into_reach() }
}

/// Every stage after all it needs; among those that could come next, the first of the manifest.
fn base_order(inputs: &[Vec<usize>]) -> Vec<usize> {
    let mut dependents = vec![Vec::new(); inputs.len()];
    let mut waiting = Vec::with_capacity(inputs.len());
    for (stage, from) in inputs.iter().enumerate() {
        let distinct: BTreeSet<usize> = from.iter().copied().collect();
        waiting.push(distinct.len());
        distinct.into_iter().for_each(|from| dependents[from].push(stage));
    }
    let mut ready: BTreeSet<usize> = (0..inputs.len()).filter(|stage| waiting[*stage] == 0).collect();
    let mut order = Vec::with_capacity(inputs.len());
    while let Some(stage) = ready.pop_first() {
        order.push(stage);
        for &next in &dependents[stage] {
            waiting[next] -= 1;
            if waiting[next] == 0 {
                ready.insert(next);
            }
        }
    }
    order
}

fn name(stage: &str, base: usize, sweep: &Sweep, setting: &Setting) -> String {
    if setting.is_empty() {
        return stage.to_owned();
    }
    let words = sweep.words(setting, base);
    // A path in a name would be cut at its slashes, and nobody reads more than a line.
    if words.len() > LONGEST || words.contains('/') {
        return format!("{stage}[{}]", sweep.id(setting));
    }
    format!("{stage}[{words}]")
}

fn seed_of(sweep: &Sweep, setting: &Setting) -> Option<u64> {
    let everywhere = |(axis, _): &&(u32, u32)| sweep.axes[*axis as usize].stage.is_none();
    let (axis, value) = setting.iter().find(everywhere)?;
    sweep.axes[*axis as usize].values[*value as usize].as_u64()
}

/// What the checks of one stage need.
struct Asked<'a, 'b, 'c> {
    checker: &'a mut Checker<'b>,
    draft: &'a Draft<'c>,
    draught: &'a Draught<'c>,
    sweep: &'a Sweep,
}

impl Asked<'_, '_, '_> {
    fn variant(self, kind: &dyn Stage, base: &Arc<Value>, setting: &Setting) -> Variant {
        let mut params = Arc::clone(base);
        if !setting.is_empty() {
            let mut changed = Value::clone(base);
            for (axis, value) in setting {
                let value = self.sweep.axes[*axis as usize].values[*value as usize].clone();
                if !put(&mut changed, &self.draught.axes[*axis as usize].path[1..], value) {
                    let problem = Diagnostic::error(
                        self.draught.axes[*axis as usize].place,
                        format!("stage `{}` leaves out the table of this parameter", self.draft.name),
                    );
                    self.checker
                        .complain(problem.hint("write the table in the stage, then sweep over its values".to_owned()));
                }
            }
            params = Arc::new(changed);
        }
        let connected: Vec<&str> = self.draft.inputs.iter().map(|link| link.name).collect();
        let mut found = kind.check(&params, &connected);
        let mut sources: Vec<Source> = Vec::new();
        if found.is_empty() {
            match kind.sources_below(self.checker.root, &params) {
                Ok(all) => sources = all,
                Err(problems) => found = problems,
            }
        }
        if found.is_empty() && self.draft.output.is_some_and(|output| output != kind.output(&params)) {
            let message = format!(
                "this makes `{}`, other cells `{}`",
                kind.output(&params),
                self.draft.output.unwrap_or_default()
            );
            found.push(Problem { at: Vec::new(), message, hint: None, missing_file: false });
        }
        let (missing, wrong): (Vec<_>, Vec<_>) = found.iter().partition(|problem| problem.missing_file);
        let wrong: Vec<Diagnostic> = wrong.into_iter().map(|problem| self.locate(problem, setting)).collect();
        let missing = missing.into_iter().map(|problem| self.locate(problem, setting)).collect();
        wrong.into_iter().for_each(|problem| self.checker.complain(problem));
        Variant { params, sources: sources.into(), missing }
    }

    /// A kind's problem at the value it names: where the sweep sets it, else in the stage's table, as near as the text
    /// comes.
    fn locate(&self, problem: &Problem, setting: &Setting) -> Diagnostic {
        let swept = setting.iter().find_map(|(axis, value)| {
            let written = &self.draught.axes[*axis as usize];
            (written.path[1..] == problem.at[..]).then(|| written.items.get(*value as usize)).flatten()
        });
        let place = match swept {
            Some(item) => &item.place,
            None => in_table(&problem.at, self.draft.place, self.draft.table),
        };
        let diagnostic = Diagnostic::error(place, problem.message.clone()).hint(problem.hint.clone());
        if setting.is_empty() {
            return diagnostic;
        }
        diagnostic.label(format!("with {}", self.sweep.words(setting, usize::MAX)))
    }
}

fn in_table<'a>(at: &[String], stage: &'a Place, table: Option<&'a Table>) -> &'a Place {
    let (mut place, mut level) = (stage, table);
    for (i, key) in at.iter().enumerate() {
        let Some(entry) = level.and_then(|table| table.get(key)) else { break };
        let last = i + 1 == at.len();
        place = if last { &entry.item.place } else { &entry.key_place };
        level = entry.item.table();
    }
    place
}

/// Puts a value at a path of keys; says whether there is such a place.
fn put(params: &mut Value, path: &[String], value: Value) -> bool {
    let mut level = params;
    for (i, key) in path.iter().enumerate() {
        let Some(map) = level.as_object_mut() else { return false };
        if i + 1 == path.len() {
            map.insert(key.clone(), value);
            return true;
        }
        let Some(next) = map.get_mut(key) else { return false };
        level = next;
    }
    false
}

/// Of the problems from `before` on, leaves the first few of those that are alike.
fn shorten(problems: &mut Vec<Diagnostic>, before: usize) {
    let mut seen: Vec<(String, usize)> = Vec::new();
    for problem in problems.split_off(before) {
        let times = match seen.iter_mut().find(|(message, _)| *message == problem.message) {
            Some((_, times)) => {
                *times += 1;
                *times
            }
            None => {
                seen.push((problem.message.clone(), 1));
                1
            }
        };
        if times <= ENOUGH {
            problems.push(problem);
        }
    }
}
