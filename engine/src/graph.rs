//! The typed graph of a manifest: stages with resolved parameters, and who needs whom.
//!
//! Unaware of text and spans (`manifest` builds it), of keys, and of what is cached.
use crate::diagnostic::Diagnostic;
use crate::stage::{Source, Stage};
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

/// One stage of a manifest.
#[derive(Clone)]
pub struct Node {
    /// Its name in the manifest.
    pub name: String,
    /// Its kind.
    pub kind: Arc<dyn Stage>,
    /// Its parameters, defaults filled in and paths absolute.
    pub params: Value,
    /// The stage connected to each port, in the order of the kind's ports.
    pub inputs: Vec<(String, StageId)>,
    /// Type of the artifact it makes.
    pub output: &'static str,
    /// Files outside the store that it reads.
    pub sources: Vec<Source>,
    /// Source files that are not there: fatal for a run, remarks for a plan. If any, `sources` is not complete.
    pub missing: Vec<Diagnostic>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}) {} {:?}", self.name, self.kind.kind(), self.params, self.inputs)
    }
}

/// A manifest whose checks all passed.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Name of the experiment.
    pub experiment: String,
    /// Seed of everything random.
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
    /// Its stages, in the order of the manifest.
    pub stages: Vec<Node>,
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
}

impl Pipeline {
    /// Orders the stages.
    ///
    /// # Errors
    /// The cycles among them, each as a closed path: its first stage is its last.
    pub fn new(header: Header, stages: Vec<Node>) -> Result<Self, Vec<Vec<StageId>>> {
        let edges: Vec<Vec<StageId>> =
            stages.iter().map(|node| node.inputs.iter().map(|(_, from)| *from).collect()).collect();
        let cycles = cycles(&edges);
        if !cycles.is_empty() {
            return Err(cycles);
        }
        let mut dependents = vec![BTreeSet::new(); stages.len()];
        for (to, from) in edges.iter().enumerate() {
            for id in from {
                dependents[id.index()].insert(StageId(to as u32));
            }
        }
        let dependents: Vec<Vec<StageId>> = dependents.into_iter().map(|set| set.into_iter().collect()).collect();
        let order = order(&edges, &dependents);
        let Header { experiment, seed, numerics, manifest, root, text, overrides } = header;
        Ok(Self { experiment, seed, numerics, manifest, root, text, overrides, stages, order, dependents })
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

    /// The stage of that name.
    pub fn find(&self, name: &str) -> Option<StageId> {
        self.stages.iter().position(|node| node.name == name).map(|i| StageId(i as u32))
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
