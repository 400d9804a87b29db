//! From checked stages and a sweep to the nodes of the graph: an instance of a stage for each combination that reaches
//! it, with the kind's own checks on every distinct set of parameters.
//!
//! Unaware of text, but for the places that problems point at.
use super::stages::Draft;
use super::sweep::{Draught, Written};
use super::tree::Table;
use super::values::Checker;
use crate::diagnostic::{Diagnostic, Place};
use crate::graph::{Node, StageId, Swept, with_params};
use crate::options::StageOptions;
use crate::stage::{Problem, Source, Stage};
use crate::sweep::{Axis, Layout, Setting, Sweep};
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Problems of one stage's cells that are told; the others would repeat them.
const ENOUGH: usize = 5;
/// A longer name of an instance is replaced by a digest: it becomes part of file names.
const LONGEST: usize = 80;
/// Fewer variants or nodes are not worth a second thread; also what one thread takes at a time.
const MANY: usize = 256;

/// The nodes in the order of the manifest, an order to run them in, and the axes that reach each stage.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub(super) nodes: Vec<Node>,
    pub(super) order: Vec<StageId>,
    pub(super) reach: Vec<BTreeSet<u32>>,
}

/// What a stage's kind says of its own parameters in some cells.
struct Variant {
    sources: Arc<[Source]>,
    missing: Arc<[Diagnostic]>,
    problems: Vec<Diagnostic>,
}

/// A stage of the manifest of which enough is known to make nodes.
struct Whole<'a> {
    stage: u32,
    name: &'a str,
    kind: &'a Arc<dyn Stage>,
    params: &'a Arc<Value>,
    options: &'a Arc<StageOptions>,
    swept: Arc<[Swept]>,
    /// Where its first variant is among all.
    first: usize,
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
    let (mut total, mut variants, mut wholes) = (0, 0, Vec::with_capacity(drafts.len()));
    for (stage, draft) in drafts.iter().enumerate() {
        begins.push(total);
        total += layout.count(stage);
        if let (Some(kind), Some(params), Some(options)) = (&draft.kind, &draft.params, &draft.options) {
            let swept = swept_in(stage, sweep, draught);
            wholes.push(Whole { stage: stage as u32, name: draft.name, kind, params, options, swept, first: variants });
            variants += layout.variants(stage);
        }
    }
    // Both lists are as long as the sweep is large: everything in them is small, and made on all cores.
    let pairs = |count: &dyn Fn(usize) -> usize| {
        let of =
            |(i, whole): (usize, &Whole<'_>)| (0..count(whole.stage as usize) as u32).map(move |at| (i as u32, at));
        wholes.iter().enumerate().flat_map(of).collect::<Vec<(u32, u32)>>()
    };
    let listings: Vec<Listings> = wholes.iter().map(|whole| Listings::new(whole)).collect();
    let variant = |(whole, variant): &(u32, u32)| {
        let (whole, listings) = (&wholes[*whole as usize], &listings[*whole as usize]);
        let draft = &drafts[whole.stage as usize];
        let setting = layout.variant_setting(whole.stage as usize, *variant as usize);
        Asked { root: checker.root, whole, draft, draught, sweep, listings }.variant(&setting)
    };
    let own: Vec<Variant> = all(&pairs(&|stage| layout.variants(stage)), variant);
    for whole in &wholes {
        let of = &own[whole.first..whole.first + layout.variants(whole.stage as usize)];
        shorten(of.iter().flat_map(|variant| &variant.problems), &mut checker.problems);
    }
    let node = |(whole, instance): &(u32, u32)| {
        let whole = &wholes[*whole as usize];
        let (stage, instance) = (whole.stage as usize, *instance as usize);
        let (draft, setting) = (&drafts[stage], layout.setting(stage, instance));
        let variant = &own[whole.first + layout.variant(stage, instance)];
        let input = |link: &super::stages::Link<'_>| {
            let from = link.from.index();
            let at = begins[from] + layout.upstream(stage, instance, from);
            (link.name.to_owned(), StageId(at as u32))
        };
        Node {
            name: name(whole.name, stage, sweep, &setting),
            base: whole.stage,
            kind: Arc::clone(whole.kind),
            declared: Arc::clone(&draft.declared),
            params: Arc::clone(whole.params),
            swept: Arc::clone(&whole.swept),
            seed: seed_of(sweep, &setting).unwrap_or(seed),
            options: Arc::clone(whole.options),
            inputs: draft.inputs.iter().map(input).collect(),
            output: draft.output.unwrap_or_default(),
            sources: Arc::clone(&variant.sources),
            missing: Arc::clone(&variant.missing),
            setting,
        }
    };
    let nodes = all(&pairs(&|stage| layout.count(stage)), node);
    let instances = |stage: usize| (0..layout.count(stage)).map(move |i| (stage, i));
    let order = order
        .iter()
        .flat_map(|stage| instances(*stage))
        .map(|(stage, instance)| StageId((begins[stage] + instance) as u32))
        .collect();
    Expanded { nodes, order, reach: layout.into_reach() }
}

/// Makes something of each, of many on all cores.
fn all<T: Sync, R: Send>(of: &[T], make: impl Fn(&T) -> R + Sync + Send) -> Vec<R> {
    if of.len() < MANY { of.iter().map(make).collect() } else { of.par_iter().with_min_len(MANY).map(make).collect() }
}

/// The axes of a stage's own parameters.
fn swept_in(stage: usize, sweep: &Sweep, draught: &Draught<'_>) -> Arc<[Swept]> {
    let axes = sweep.axes.iter().zip(&draught.axes).enumerate().filter(|(_, (axis, _))| axis.stage == Some(stage));
    let swept = |(axis, (values, written)): (usize, (&Axis, &Written<'_>))| Swept {
        axis: axis as u32,
        path: written.path.get(1..).unwrap_or_default().to_vec(),
        values: values.values.clone(),
    };
    let swept: Vec<Swept> = axes.map(swept).collect();
    if swept.is_empty() { Arc::default() } else { swept.into() }
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

/// The files of a stage, by what decides about them.
struct Listings {
    /// Axes that do; none: every set of parameters is asked about.
    axes: Option<Vec<u32>>,
    known: Mutex<HashMap<Setting, Arc<[Source]>>>,
}

impl Listings {
    fn new(whole: &Whole<'_>) -> Self {
        let decides =
            |names: &[&str], swept: &Swept| swept.path.first().is_none_or(|key| names.contains(&key.as_str()));
        let axes = whole
            .kind
            .sources_depend_on()
            .map(|names| whole.swept.iter().filter(|swept| decides(names, swept)).map(|swept| swept.axis).collect());
        Self { axes: axes.filter(|_| !whole.swept.is_empty()), known: Mutex::default() }
    }

    /// What of a cell decides; `None`: nobody knows.
    fn decisive(&self, setting: &Setting) -> Option<Setting> {
        let axes = self.axes.as_ref()?;
        Some(setting.iter().copied().filter(|(axis, _)| axes.contains(axis)).collect())
    }

    fn get(&self, decisive: &Setting) -> Option<Arc<[Source]>> {
        self.lock().get(decisive).cloned()
    }

    fn insert(&self, decisive: Setting, sources: &Arc<[Source]>) {
        self.lock().insert(decisive, Arc::clone(sources));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Setting, Arc<[Source]>>> {
        // A panic elsewhere leaves the map whole: every change to it is one insertion.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the checks of one stage need.
struct Asked<'a> {
    root: &'a Path,
    whole: &'a Whole<'a>,
    draft: &'a Draft<'a>,
    draught: &'a Draught<'a>,
    sweep: &'a Sweep,
    listings: &'a Listings,
}

impl Asked<'_> {
    fn variant(&self, setting: &Setting) -> Variant {
        with_params(self.whole.params, &self.whole.swept, setting, |params, placed| {
            let mut variant = self.checked(params, setting);
            if !placed {
                self.no_place(setting, &mut variant.problems);
            }
            variant
        })
    }

    fn checked(&self, params: &Value, setting: &Setting) -> Variant {
        let kind = self.whole.kind;
        let connected: Vec<&str> = self.draft.inputs.iter().map(|link| link.name).collect();
        let decisive = self.listings.decisive(setting);
        let known = decisive.as_ref().and_then(|decisive| self.listings.get(decisive));
        let (sources, found) = match (kind.examine(self.root, params, &connected, known.is_none()), known) {
            (Err(found), _) => (Arc::default(), found),
            (Ok(_), Some(known)) => (known, Vec::new()),
            (Ok(sources), None) => {
                let sources: Arc<[Source]> = if sources.is_empty() { Arc::default() } else { sources.into() };
                if let Some(decisive) = decisive {
                    self.listings.insert(decisive, &sources);
                }
                (sources, Vec::new())
            }
        };
        let mut variant = Variant { sources, missing: Arc::default(), problems: Vec::new() };
        if let Some(other) = self.draft.output.filter(|output| *output != kind.output(params) && found.is_empty()) {
            let message = format!("this makes `{}`, other cells `{other}`", kind.output(params));
            let problem = Problem { at: Vec::new(), message, hint: None, missing_file: false };
            variant.problems.push(self.locate(&problem, setting));
        }
        if !found.is_empty() {
            let (missing, wrong): (Vec<_>, Vec<_>) = found.iter().partition(|problem| problem.missing_file);
            variant.problems = wrong.into_iter().map(|problem| self.locate(problem, setting)).collect();
            variant.missing = missing.into_iter().map(|problem| self.locate(problem, setting)).collect();
        }
        variant
    }

    /// Of what the sweep sets, something lies in a table that the stage does not have.
    fn no_place(&self, setting: &Setting, problems: &mut Vec<Diagnostic>) {
        for (axis, _) in setting {
            let Some(swept) = self.whole.swept.iter().find(|swept| swept.axis == *axis) else { continue };
            let above = swept.path.split_last().map_or(&[][..], |(_, above)| above);
            let table = above.iter().try_fold(&**self.whole.params, |level, key| level.get(key));
            if table.is_none_or(|table| !table.is_object()) {
                let message = format!("stage `{}` leaves out the table of this parameter", self.draft.name);
                let problem = Diagnostic::error(self.draught.axes[*axis as usize].place, message);
                problems.push(problem.hint("write the table in the stage, then sweep over its values".to_owned()));
            }
        }
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

/// Of the problems of one stage's cells, tells the first few of those that are alike.
fn shorten<'a>(problems: impl Iterator<Item = &'a Diagnostic>, told: &mut Vec<Diagnostic>) {
    let mut seen: Vec<(&str, usize)> = Vec::new();
    for problem in problems {
        let times = match seen.iter_mut().find(|(message, _)| *message == problem.message) {
            Some((_, times)) => {
                *times += 1;
                *times
            }
            None => {
                seen.push((&problem.message, 1));
                1
            }
        };
        if times <= ENOUGH {
            told.push(problem.clone());
        }
    }
}
