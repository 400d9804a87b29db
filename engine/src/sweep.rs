//! A sweep: axes of values, how they combine into cells, and which part of a cell each stage depends on.
//!
//! A stage is instantiated once for every combination of the axes that can reach it: its own and those of the stages
//! that it needs. What a sweep does not touch is one stage for all cells. Unaware of text, kinds and files.
use crate::key::Digest;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Values of one parameter, by number: axis, and value on it. Sorted by axis; an axis that is absent is not set.
pub type Setting = Vec<(u32, u32)>;

/// A parameter and the values that it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// As the manifest has it: `lora.batch_size`.
    pub key: String,
    /// Index of the stage in the manifest; `None`: of the experiment, so of every stage.
    pub stage: Option<usize>,
    /// The values, typed.
    pub values: Vec<Value>,
    labels: Vec<String>,
}

impl Axis {
    /// An axis; `stage` is the index of its stage in the manifest.
    pub fn new(key: String, stage: Option<usize>, values: Vec<Value>) -> Self {
        let labels = values.iter().map(label).collect();
        Self { key, stage, values, labels }
    }

    /// A value as people read it.
    pub fn label(&self, value: u32) -> &str {
        &self.labels[value as usize]
    }

    /// The parameter without its stage.
    pub fn parameter(&self) -> &str {
        self.key.split_once('.').map_or(&self.key, |(_, rest)| rest)
    }
}

/// Plain words as they are, everything else as JSON, so that labels of unequal values differ.
fn label(value: &Value) -> String {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "_./:+-".contains(c));
    match value {
        Value::String(text) if plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Axes, and groups of points: a cell takes one point of every group. A grid is a group for each axis, lists that
/// go together are one group, and an ablation is a group whose first point changes nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sweep {
    /// The axes, in the order of the manifest.
    pub axes: Vec<Axis>,
    /// The groups of points.
    pub groups: Vec<Vec<Setting>>,
    /// The axis along which running out of memory is taken to be monotone.
    pub monotone: Option<u32>,
}

impl Sweep {
    /// Number of cells; saturates.
    pub fn cells(&self) -> usize {
        self.groups.iter().fold(1, |cells, group| cells.saturating_mul(group.len()))
    }

    /// Whether two axes go together: a cell that takes a value of one takes the same of the other.
    pub fn together(&self, one: u32, other: u32) -> bool {
        let both = |point: &Setting| [one, other].iter().all(|axis| point.iter().any(|(at, _)| at == axis));
        self.groups.iter().any(|group| group.iter().any(both))
    }

    /// Short and readable: `batch_size=4,tokens.max_length=512`; parameters of `stage` go without its name.
    pub fn words(&self, setting: &[(u32, u32)], stage: usize) -> String {
        let word = |(axis, value): &(u32, u32)| {
            let axis = &self.axes[*axis as usize];
            let own = axis.stage.is_none() || axis.stage == Some(stage);
            format!("{}={}", if own { axis.parameter() } else { &axis.key }, axis.label(*value))
        };
        setting.iter().map(word).collect::<Vec<_>>().join(",")
    }

    /// A name made of the content alone, so that it is the same in every order of cells: eight hexadecimal digits.
    pub fn id(&self, setting: &[(u32, u32)]) -> String {
        let mut parts: Vec<(&str, String)> = setting
            .iter()
            .map(|(axis, value)| {
                let axis = &self.axes[*axis as usize];
                (axis.key.as_str(), axis.values[*value as usize].to_string())
            })
            .collect();
        parts.sort();
        let mut hasher = blake3::Hasher::new_derive_key("anneal 2026 sweep cell v1");
        for (key, value) in parts {
            for text in [key, &value] {
                hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
            }
        }
        let mut id = Digest::from(hasher.finalize()).to_string();
        id.truncate(8);
        id
    }
}

/// A group seen by a stage: points that differ only in what cannot reach it are one.
#[derive(Debug, Clone)]
struct View {
    /// For each point of the group, the number of the view's own.
    of: Vec<u32>,
    /// For each of the view's own, a point of the group, and what it sets.
    points: Vec<(u32, Setting)>,
}

impl View {
    fn new(group: &[Setting], axes: &BTreeSet<u32>) -> Self {
        let mut numbers: HashMap<Setting, u32> = HashMap::new();
        let mut view = Self { of: Vec::with_capacity(group.len()), points: Vec::new() };
        for (at, point) in group.iter().enumerate() {
            let seen: Setting = point.iter().copied().filter(|(axis, _)| axes.contains(axis)).collect();
            let number = *numbers.entry(seen.clone()).or_insert_with(|| {
                view.points.push((at as u32, seen));
                view.points.len() as u32 - 1
            });
            view.of.push(number);
        }
        view
    }
}

/// What a stage sees of a sweep: all that can reach it, or its own parameters alone.
#[derive(Debug, Clone)]
struct Sight(Vec<View>);

impl Sight {
    fn new(sweep: &Sweep, axes: &BTreeSet<u32>) -> Self {
        Self(sweep.groups.iter().map(|group| View::new(group, axes)).collect())
    }

    fn count(&self) -> usize {
        self.0.iter().fold(1, |count, view| count.saturating_mul(view.points.len()))
    }

    /// The point of every group that an instance stands for; the last group varies fastest.
    fn digits(&self, mut instance: usize) -> Vec<u32> {
        let mut digits = vec![0; self.0.len()];
        for (digit, view) in digits.iter_mut().zip(&self.0).rev() {
            *digit = (instance % view.points.len()) as u32;
            instance /= view.points.len();
        }
        digits
    }

    fn setting(&self, instance: usize) -> Setting {
        let digits = self.digits(instance);
        let mut setting: Setting =
            self.0.iter().zip(digits).flat_map(|(view, digit)| view.points[digit as usize].1.iter().copied()).collect();
        setting.sort_unstable();
        setting
    }

    /// The instance of a stage that sees less, or the same, which belongs to this one's.
    fn seen_by(&self, instance: usize, other: &Self) -> usize {
        let digits = self.digits(instance);
        let mut at = 0;
        for ((view, theirs), digit) in self.0.iter().zip(&other.0).zip(digits) {
            let point = view.points[digit as usize].0;
            at = at * theirs.points.len() + theirs.of[point as usize] as usize;
        }
        at
    }
}

/// The instances of every stage of a manifest, by number.
#[derive(Debug, Clone)]
pub struct Layout {
    sights: Vec<Sight>,
    own: Vec<Sight>,
    reach: Vec<BTreeSet<u32>>,
}

impl Layout {
    /// `inputs`: for each stage the stages that it needs; `order`: all stages, each after what it needs.
    pub fn new(sweep: &Sweep, inputs: &[Vec<usize>], order: &[usize]) -> Self {
        let axes = || sweep.axes.iter().enumerate().map(|(i, axis)| (i as u32, axis.stage));
        let of = |stage: usize| axes().filter(move |(_, at)| *at == Some(stage)).map(|(i, _)| i);
        let everywhere: Vec<u32> = axes().filter(|(_, at)| at.is_none()).map(|(i, _)| i).collect();
        let mut reach: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); inputs.len()];
        for &stage in order {
            let mut all: BTreeSet<u32> = of(stage).chain(everywhere.iter().copied()).collect();
            for &from in &inputs[stage] {
                all.extend(&reach[from]);
            }
            reach[stage] = all;
        }
        let sights = reach.iter().map(|axes| Sight::new(sweep, axes)).collect();
        let own = (0..inputs.len()).map(|stage| Sight::new(sweep, &of(stage).collect())).collect();
        Self { sights, own, reach }
    }

    /// How many instances a stage has.
    pub fn count(&self, stage: usize) -> usize {
        self.sights[stage].count()
    }

    /// What the sweep sets in an instance and in all that it needs.
    pub fn setting(&self, stage: usize, instance: usize) -> Setting {
        self.sights[stage].setting(instance)
    }

    /// The instance of `from` that an instance of `stage` needs.
    pub fn upstream(&self, stage: usize, instance: usize, from: usize) -> usize {
        self.sights[stage].seen_by(instance, &self.sights[from])
    }

    /// How many sets of own parameters a stage has.
    pub fn variants(&self, stage: usize) -> usize {
        self.own[stage].count()
    }

    /// What the sweep sets in one of them.
    pub fn variant_setting(&self, stage: usize, variant: usize) -> Setting {
        self.own[stage].setting(variant)
    }

    /// The own parameters of an instance.
    pub fn variant(&self, stage: usize, instance: usize) -> usize {
        self.sights[stage].seen_by(instance, &self.own[stage])
    }

    /// The axes that reach each stage.
    pub fn into_reach(self) -> Vec<BTreeSet<u32>> {
        self.reach
    }
}

#[cfg(test)]
mod tests;
