//! From the text of a manifest to a checked [`Pipeline`], or to all its problems at once.
//!
//! The text is parsed into a tree with spans (`tree`, by way of `plain` if it is plain), overrides are put into it (`set`), values are held against
//! the kinds' declarations (`values`), stages are connected (`stages`), a sweep is read (`sweep`) and every stage gets
//! its instances (`expand`). Unaware of keys, caches and terminals.
mod expand;
mod plain;
mod set;
mod stages;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod text;
mod tree;
mod values;
mod words;

use crate::diagnostic::{Diagnostic, Diagnostics, Place, SourceText};
use crate::graph::{Header, Pipeline};
use crate::param::{ParamSet, Shape};
use crate::registry::Registry;
use crate::sweep::Sweep;
use expand::Expanded;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tree::{Table, Tree};
use values::{Checker, Owner};

pub(crate) use text::bytes_of_ordinary;
pub use text::project_root;
pub use words::{nearest, shape_words};

/// How to read a manifest.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// `stage.key=value` overrides, as given to `--set`; the last of equal keys wins.
    pub sets: Vec<String>,
    /// Folder that the manifest's own path and relative paths in `sets` start from; absolute. Empty: the process's.
    pub cwd: PathBuf,
    /// Folder that relative paths in the manifest start from, instead of the project's root.
    pub root: Option<PathBuf>,
    /// A sweep of any size was meant; else one of more than [`MOST_CELLS`] is a problem.
    pub any_size: bool,
}

/// Cells of a sweep beyond which somebody probably made a mistake.
pub const MOST_CELLS: usize = 100_000;

crate::params! {
    /// The `[experiment]` table.
    pub struct Experiment {
        /// Name of the experiment, in reports and run folders.
        name: String;
        /// Seed of everything random.
        seed: u64 = 42, in 0..=9_223_372_036_854_775_807i64;
        /// Numerics class: the arithmetic that results are promised for.
        numerics: String = "cpu-f32";
    }
}

/// Reads and checks a manifest.
///
/// # Errors
/// All its problems at once, ordered as in the text.
pub fn load(registry: &Registry, path: &Path, options: &LoadOptions) -> Result<Pipeline, Diagnostics> {
    let name = path.display().to_string();
    let file = options.cwd.join(path);
    let text = text::read(&file, &name).map_err(|problem| Diagnostics(vec![problem]))?;
    let root = match &options.root {
        Some(root) => std::path::absolute(options.cwd.join(root)).unwrap_or_else(|_| root.clone()),
        None => project_root(&file),
    };
    parse(registry, text, path, &root, options)
}

/// Checks the text of a manifest; `path` is only its name, `root` is absolute.
///
/// # Errors
/// All its problems at once, ordered as in the text.
pub fn parse(
    registry: &Registry,
    text: String,
    path: &Path,
    root: &Path,
    options: &LoadOptions,
) -> Result<Pipeline, Diagnostics> {
    let source = Arc::new(SourceText { name: path.display().to_string(), text, order: 0 });
    let mut problems = Vec::new();
    let mut tree = tree::parse(&source, &mut problems);
    let recovered = !problems.is_empty();
    let broken_lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    shorten(&mut problems);
    for (i, argument) in options.sets.iter().enumerate() {
        set::apply(argument, i + 1, &mut tree, &mut problems);
    }
    let mut checker = Checker { root, cwd: &options.cwd, recovered, problems: Vec::new() };
    let checked = check(&mut checker, registry, &source, &tree, options.any_size);
    // What recovery made of a broken line is not what was meant.
    problems
        .extend(checker.problems.into_iter().filter(|p| p.place.source.is_set() || !broken_lines.contains(&p.line)));
    // Missing files alone are for `run` and `plan` to weigh; beside other problems they are told with them.
    if !problems.is_empty() {
        let nodes = checked.iter().flat_map(|checked| &checked.expanded.nodes);
        problems.extend(nodes.flat_map(|node| node.missing.iter().cloned()));
    }
    let header = |experiment: Experiment, bases, sweep, reach| Header {
        experiment: experiment.name,
        seed: experiment.seed,
        numerics: experiment.numerics,
        manifest: path.to_owned(),
        root: root.to_owned(),
        text: source.text.clone(),
        overrides: options.sets.clone(),
        bases,
        sweep,
        reach,
    };
    if let (true, Some(Checked { experiment, bases, sweep, expanded })) = (problems.is_empty(), checked) {
        // Cycles were reported above, so none can be left.
        let Expanded { nodes, order, reach } = expanded;
        return Ok(Pipeline::ordered(header(experiment, bases, sweep, reach), nodes, order));
    }
    if problems.is_empty() {
        let whole = Place::new(&source, 0..0);
        problems.push(Diagnostic::error(&whole, "bug: this manifest was refused without a reason"));
    }
    let mut problems = Diagnostics(problems);
    problems.sort();
    // A value may be read twice: by its stage, and by the sweep that sets it.
    problems.0.dedup();
    Err(problems)
}

/// Leaves the first few complaints about the grammar: a file of another kind has one on every line.
fn shorten(problems: &mut Vec<Diagnostic>) {
    const ENOUGH: usize = 5;
    let more = problems.len().saturating_sub(ENOUGH);
    problems.sort_by_key(|problem| problem.line);
    problems.truncate(ENOUGH);
    if let (Some(last), true) = (problems.last_mut(), more > 0) {
        last.hint = Some(format!("{more} more lines cannot be read: is this file TOML?"));
    }
}

struct Checked {
    experiment: Experiment,
    bases: Vec<String>,
    sweep: Sweep,
    expanded: Expanded,
}

fn check(
    checker: &mut Checker<'_>,
    registry: &Registry,
    source: &Arc<SourceText>,
    root: &Table,
    any_size: bool,
) -> Option<Checked> {
    let start = Place::new(source, 0..0);
    for entry in &root.0 {
        let problem = match entry.key.as_str() {
            "experiment" | "stages" | "sweep" => continue,
            // The keys below a broken `[header]` end up here.
            _ if checker.recovered => continue,
            other => Diagnostic::error(&entry.key_place, format!("unknown key `{other}`"))
                .label("not a key of a manifest")
                .hint(words::suggest(other, "a manifest has", &["experiment", "stages", "sweep"])),
        };
        checker.complain(problem);
    }
    let experiment = experiment(checker, registry, root, &start);
    let empty = Table::default();
    let stages = section(checker, root, "stages", &start).unwrap_or(&empty);
    if stages.0.is_empty() && root.get("stages").is_some_and(|entry| entry.item.table().is_some()) {
        let place = root.get("stages").map_or(&start, |entry| &entry.key_place);
        checker.complain(Diagnostic::error(place, "this manifest has no stages"));
    }
    let draught = sweep::read(checker, root);
    let stages = sweep::complete(registry, stages, &draught);
    let drafts = stages::read(checker, registry, &stages);
    let cycles = stages::check_cycles(checker, &drafts);
    let sweep = sweep::check(checker, &draught, &drafts).filter(|sweep| {
        let problem = sweep::too_many(sweep, &draught, MOST_CELLS).filter(|_| !any_size);
        let few = problem.is_none();
        problem.into_iter().for_each(|problem| checker.complain(problem));
        few
    });
    // Recovered text may have lost keys, which the kinds' checks would then ask for.
    if checker.recovered {
        return None;
    }
    // Without the sweep if that is wrong: the kinds' own complaints about the stages are told all the same.
    let (sound, sweep) = (sweep.is_some() && !cycles, sweep.unwrap_or_default());
    let expanded = expand::expand(checker, &drafts, &draught, &sweep, experiment.as_ref().map_or(0, |e| e.seed));
    // Circles have no order.
    if !sound {
        return None;
    }
    let bases = drafts.iter().map(|draft| draft.name.to_owned()).collect();
    experiment.map(|experiment| Checked { experiment, bases, sweep, expanded })
}

fn experiment(checker: &mut Checker<'_>, registry: &Registry, root: &Table, start: &Place) -> Option<Experiment> {
    let table = section(checker, root, "experiment", start)?;
    let entry = root.get("experiment")?;
    let mut params = Experiment::params();
    for param in params.iter_mut().filter(|param| param.name == "numerics") {
        param.shape = Shape::Choice(registry.numerics().iter().map(|name| (*name, "")).collect());
        param.default = registry.numerics().first().map(|name| Value::from(*name));
    }
    let owner = Owner { name: "table `experiment`", place: &entry.key_place, reserved: &[] };
    let values = checker.params(&owner, &params, table)?;
    let experiment: Experiment = serde_json::from_value(values).ok()?;
    if let (Some(wrong), Some(entry)) = (bad_name(&experiment.name, &['-', '.']), table.get("name")) {
        let message = format!("an experiment cannot have the name `{}`: {wrong}", experiment.name.escape_debug());
        checker.complain(Diagnostic::error(&entry.item.place, message));
    }
    Some(experiment)
}

fn section<'a>(checker: &mut Checker<'_>, root: &'a Table, name: &str, start: &Place) -> Option<&'a Table> {
    match root.get(name) {
        Some(entry) => {
            let table = entry.item.table();
            if table.is_none() && !matches!(entry.item.tree, Tree::Broken) {
                let problem =
                    Diagnostic::error(&entry.item.place, format!("`{name}` cannot be {}", entry.item.describe()));
                checker.complain(problem.label("expected a table"));
            }
            table
        }
        None => {
            if !checker.recovered {
                let example = if name == "stages" { "[stages.NAME]" } else { "[experiment]` with `name = \"...\"" };
                let problem = Diagnostic::error(start, format!("this manifest has no `{name}`"));
                checker.complain(problem.hint(format!("add `{example}`")));
            }
            None
        }
    }
}

/// What keeps a text from being a name; names become parts of file names and of `--set stage.key`.
fn bad_name(name: &str, also: &[char]) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > 100 {
        return Some("it is longer than 100 bytes");
    }
    let fine = name.chars().all(|c| c.is_alphanumeric() || c == '_' || also.contains(&c));
    // A name that begins with `-` would look like an option, one that begins with `.` would be hidden.
    (!fine || name.starts_with(also)).then_some("use letters, digits, `_` and, but not at first, `-`")
}
