//! The typed graph of a manifest: stages with resolved parameters, and who needs whom.
//!
//! A stage that a sweep reaches is there once for each of its combinations. Unaware of text and spans (`manifest`
//! builds it), of keys, and of what is cached.
mod params;

pub use params::Swept;
pub(crate) use params::with_params;

use crate::diagnostic::Diagnostic;
use crate::options::StageOptions;
use crate::param::Param;
use crate::stage::{Source, Stage};
use crate::sweep::{Setting, Sweep};
use petgraph::algo::kosaraju_scc;
use petgraph::graphmap::DiGraphMap;
use serde_json::Value;
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

/// Index of a stage in [`Pipeline::stages`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StageId(pub u32);

impl StageId {
    /// As an index into a dense vector.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One stage of a manifest, or one of its instances in a sweep.
#[derive(Clone)]
pub struct Node {
    /// Its name: that in the manifest, and in a sweep what is set: `lora[batch_size=4]`.
    pub name: String,
    /// Index of its stage in [`Pipeline::bases`].
    pub base: u32,
    /// What the sweep sets in it and in all that it needs.
    pub setting: Setting,
    /// Its kind.
    pub kind: Arc<dyn Stage>,
    /// What its kind declares as parameters, once for all its instances.
    pub declared: Arc<[Param]>,
    /// Its parameters, defaults filled in and paths absolute, as all its instances have them; [`Node::resolved`] has
    /// what the sweep sets in this one too.
    pub params: Arc<Value>,
    /// Those of them that the sweep sets.
    pub swept: Arc<[Swept]>,
    /// Seed of everything random in it.
    pub seed: u64,
    /// What it may use and what is kept of it.
    pub options: Arc<StageOptions>,
    /// The stage connected to each port, in the order of the kind's ports.
    pub inputs: Vec<(String, StageId)>,
    /// Type of the artifact it makes.
    pub output: &'static str,
    /// Files outside the store that it reads.
    pub sources: Arc<[Source]>,
    /// Source files that are not there: fatal for a run, remarks for a plan. If any, `sources` is not complete.
    pub missing: Arc<[Diagnostic]>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}) {} {:?}", self.name, self.kind.kind(), self.resolved(), self.inputs)
    }
}

impl Node {
    /// A stage that no sweep reaches, with nothing special about it.
    pub fn plain(name: String, kind: Arc<dyn Stage>, params: Value, inputs: Vec<(String, StageId)>) -> Self {
        Self {
            name,
            base: 0,
            setting: Setting::new(),
            output: kind.output(&params),
            declared: kind.params().into(),
            kind,
            params: Arc::new(params),
            swept: Arc::default(),
            seed: 0,
            options: Arc::default(),
            inputs,
            sources: Arc::default(),
            missing: Arc::default(),
        }
    }
}

/// A manifest whose checks all passed.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Name of the experiment.
    pub experiment: String,
    /// Seed of everything random, where no sweep sets another.
    pub seed: u64,
    /// Numerics class, such as `cpu-f32`.
    pub numerics: String,
    /// The manifest as the user named it.
    pub manifest: PathBuf,
    /// Folder that relative paths of the manifest start from; absolute.
    pub root: PathBuf,
    /// Text of the manifest.
    pub text: String,
    /// The `--set` arguments, as given.
    pub overrides: Vec<String>,
    /// Its stages, in the order of the manifest; the instances of one stage follow each other.
    pub stages: Vec<Node>,
    /// Names of the stages in the manifest.
    pub bases: Vec<String>,
    /// What is swept; without axes if nothing is.
    pub sweep: Sweep,
    /// By stage of the manifest: the axes that can reach it.
    reach: Vec<BTreeSet<u32>>,
    order: Vec<StageId>,
    dependents: Vec<Vec<StageId>>,
}

/// What a [`Pipeline`] has besides its stages.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// See [`Pipeline::experiment`].
    pub experiment: String,
    /// See [`Pipeline::seed`].
    pub seed: u64,
    /// See [`Pipeline::numerics`].
    pub numerics: String,
    /// See [`Pipeline::manifest`].
    pub manifest: PathBuf,
    /// See [`Pipeline::root`].
    pub root: PathBuf,
    /// See [`Pipeline::text`].
    pub text: String,
    /// See [`Pipeline::overrides`].
    pub overrides: Vec<String>,
    /// See [`Pipeline::bases`]; empty: every stage is its own.
    pub bases: Vec<String>,
    /// See [`Pipeline::sweep`].
    pub sweep: Sweep,
    /// By stage of the manifest: the axes that can reach it; empty: none reaches any.
    pub reach: Vec<BTreeSet<u32>>,
}

impl Pipeline {
    /// Orders stages that no sweep reaches.
    ///
    /// # Errors
    /// The cycles among them, each as a closed path: its first stage is its last.
    pub fn new(header: Header, mut stages: Vec<Node>) -> Result<Self, Vec<Vec<StageId>>> {
        for (base, node) in stages.iter_mut().enumerate() {
            node.base = base as u32;
        }
        let edges: Vec<Vec<StageId>> =
            stages.iter().map(|node| node.inputs.iter().map(|(_, from)| *from).collect()).collect();
        let cycles = cycles(&edges);
        if !cycles.is_empty() {
            return Err(cycles);
        }
        let dependents = dependents(&stages);
        let order = order(&edges, &dependents);
        Ok(Self::assemble(header, stages, dependents, order))
    }

    /// Takes stages whose order is known: each comes after all it needs.
    pub(crate) fn ordered(header: Header, stages: Vec<Node>, order: Vec<StageId>) -> Self {
        let dependents = dependents(&stages);
        Self::assemble(header, stages, dependents, order)
    }

    fn assemble(header: Header, stages: Vec<Node>, dependents: Vec<Vec<StageId>>, order: Vec<StageId>) -> Self {
        let Header { experiment, seed, numerics, manifest, root, text, overrides, mut bases, sweep, mut reach } =
            header;
        if bases.is_empty() {
            bases = stages.iter().map(|node| node.name.clone()).collect();
        }
        reach.resize(bases.len(), BTreeSet::new());
        Self {
            experiment,
            seed,
            numerics,
            manifest,
            root,
            text,
            overrides,
            stages,
            bases,
            sweep,
            reach,
            order,
            dependents,
        }
    }

    /// Every stage after all it needs; among those that could come next, the first of the manifest.
    pub fn order(&self) -> &[StageId] {
        &self.order
    }

    /// The stages that take this one's output.
    pub fn dependents(&self, id: StageId) -> &[StageId] {
        &self.dependents[id.index()]
    }

    /// All stages that this one needs, directly or not, the nearest first.
    pub fn ancestors(&self, id: StageId) -> Vec<StageId> {
        let mut found = Vec::new();
        let mut seen = vec![false; self.stages.len()];
        let mut queue = VecDeque::from([id]);
        while let Some(next) = queue.pop_front() {
            for (_, from) in &self.node(next).inputs {
                if !std::mem::replace(&mut seen[from.index()], true) {
                    found.push(*from);
                    queue.push_back(*from);
                }
            }
        }
        found
    }

    /// The stage of exactly that name.
    pub fn find(&self, name: &str) -> Option<StageId> {
        self.stages.iter().position(|node| node.name == name).map(|i| StageId(i as u32))
    }

    /// All instances of the stage of that name in the manifest, or the one instance of exactly that name.
    pub fn find_all(&self, name: &str) -> Vec<StageId> {
        match self.bases.iter().position(|base| base == name) {
            Some(base) => self.ids().filter(|id| self.node(*id).base as usize == base).collect(),
            None => self.find(name).into_iter().collect(),
        }
    }

    /// Whether `smaller` differs from `id` in nothing but a smaller value along an axis, and along those that go together
    /// with it.
    pub fn is_smaller(&self, smaller: StageId, id: StageId, axis: u32) -> bool {
        let (small, large) = (self.node(smaller), self.node(id));
        let value = |node: &Node, axis: u32| node.setting.iter().find(|(at, _)| *at == axis).map(|(_, value)| *value);
        let number = |node: &Node, axis: u32| {
            value(node, axis).and_then(|value| self.sweep.axes[axis as usize].values[value as usize].as_f64())
        };
        let fits = |other: u32| {
            value(small, other) == value(large, other)
                || self.sweep.together(axis, other) && number(small, other) <= number(large, other)
        };
        let less = number(small, axis).zip(number(large, axis)).is_some_and(|(a, b)| a < b);
        small.base == large.base
            && less
            && small.setting.iter().chain(&large.setting).all(|(at, _)| *at == axis || fits(*at))
    }

    /// Name in the manifest of a stage's own.
    pub fn base(&self, id: StageId) -> &str {
        &self.bases[self.node(id).base as usize]
    }

    /// The axes that can reach a stage; where its setting lacks one of them, the manifest's own value stands.
    pub fn reach(&self, id: StageId) -> &BTreeSet<u32> {
        &self.reach[self.node(id).base as usize]
    }

    /// Content-derived name of what the sweep sets in a stage and all it needs; `None` where it sets nothing.
    pub fn cell(&self, id: StageId) -> Option<String> {
        let setting = &self.node(id).setting;
        (!self.reach(id).is_empty()).then(|| self.sweep.id(setting))
    }

    /// A stage by its number.
    pub fn node(&self, id: StageId) -> &Node {
        &self.stages[id.index()]
    }

    /// All numbers, in the order of the manifest.
    pub fn ids(&self) -> impl Iterator<Item = StageId> + use<> {
        (0..self.stages.len() as u32).map(StageId)
    }
}

fn dependents(stages: &[Node]) -> Vec<Vec<StageId>> {
    let mut dependents: Vec<Vec<StageId>> = vec![Vec::new(); stages.len()];
    for (to, node) in stages.iter().enumerate() {
        let to = StageId(to as u32);
        for (_, from) in &node.inputs {
            let list = &mut dependents[from.index()];
            // Stages come one after the other, so a stage that takes an output twice was the last to be noted.
            if list.last() != Some(&to) {
                list.push(to);
            }
        }
    }
    dependents
}

/// Kahn's algorithm with an ordered ready set, so that the order depends on the manifest alone.
fn order(inputs: &[Vec<StageId>], dependents: &[Vec<StageId>]) -> Vec<StageId> {
    let mut waiting: Vec<usize> = inputs.iter().map(|from| from.iter().collect::<BTreeSet<_>>().len()).collect();
    let mut ready: BTreeSet<StageId> =
        (0..inputs.len() as u32).map(StageId).filter(|id| waiting[id.index()] == 0).collect();
    let mut order = Vec::with_capacity(inputs.len());
    while let Some(id) = ready.pop_first() {
        order.push(id);
        for next in &dependents[id.index()] {
            waiting[next.index()] -= 1;
            if waiting[next.index()] == 0 {
                ready.insert(*next);
            }
        }
    }
    order
}

/// The shortest closed path through the first stage of each strongly connected part, in the direction of data.
///
/// Kosaraju's algorithm, because petgraph's Tarjan recurses: a chain of many thousand stages would exhaust the stack.
pub(crate) fn cycles(inputs: &[Vec<StageId>]) -> Vec<Vec<StageId>> {
    let mut graph = DiGraphMap::<u32, ()>::new();
    for (to, from) in inputs.iter().enumerate() {
        for id in from {
            graph.add_edge(id.0, to as u32, ());
        }
    }
    let mut found: Vec<Vec<StageId>> = kosaraju_scc(&graph)
        .into_iter()
        .filter(|part| part.len() > 1 || part.iter().any(|n| graph.contains_edge(*n, *n)))
        .filter_map(|part| part.iter().min().and_then(|start| closed_path(&graph, *start)))
        .collect();
    found.sort();
    found
}

fn closed_path(graph: &DiGraphMap<u32, ()>, start: u32) -> Option<Vec<StageId>> {
    let mut came_from = std::collections::BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        let mut next: Vec<u32> = graph.neighbors(at).collect();
        next.sort_unstable();
        for to in next {
            if to == start {
                let mut path = vec![StageId(start), StageId(at)];
                let mut back = at;
                while let Some(previous) = came_from.get(&back) {
                    path.push(StageId(*previous));
                    back = *previous;
                }
                path.reverse();
                return Some(path);
            }
            if let std::collections::btree_map::Entry::Vacant(entry) = came_from.entry(to) {
                entry.insert(at);
                queue.push_back(to);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
