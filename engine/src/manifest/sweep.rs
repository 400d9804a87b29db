//! The `[sweep]` table: which parameters take which values, and how these combine.
//!
//! Unaware of what a cell is good for, and of instances: `expand` makes those.
use super::stages::Draft;
use super::tree::{Entry, Item, Table, Tree};
use super::values::Checker;
use super::words::{list, suggest};
use crate::diagnostic::{Diagnostic, Place};
use crate::options::StageOptions;
use crate::param::{Param, ParamSet, Shape};
use crate::registry::Registry;
use crate::sweep::{Axis, Setting, Sweep};
use serde_json::Value;
use std::borrow::Cow;

const TABLES: [&str; 3] = ["grid", "zip", "ablate"];
const MONOTONE: &str = "assume_monotone";

/// A swept parameter as it is written.
#[derive(Debug)]
pub(super) struct Written<'a> {
    /// `lora.batch_size`.
    pub(super) key: String,
    pub(super) place: &'a Place,
    /// Stage and keys below it.
    pub(super) path: Vec<String>,
    pub(super) items: Vec<&'a Item>,
    /// Index into [`TABLES`].
    how: usize,
}

/// What is swept, as its values are checked.
struct Swept {
    name: String,
    unit: &'static str,
    shape: Shape,
}

impl From<Param> for Swept {
    fn from(Param { name, unit, shape, .. }: Param) -> Self {
        Self { name: name.to_owned(), unit, shape }
    }
}

/// The whole table as it is written.
#[derive(Debug, Default)]
pub(super) struct Draught<'a> {
    pub(super) axes: Vec<Written<'a>>,
    monotone: Option<(&'a str, &'a Place)>,
    /// Where the table is.
    pub(super) place: Option<&'a Place>,
}

/// Reads the table's form.
pub(super) fn read<'a>(checker: &mut Checker<'_>, root: &'a Table) -> Draught<'a> {
    let mut draught = Draught::default();
    let Some(entry) = root.get("sweep") else { return draught };
    draught.place = Some(&entry.key_place);
    let Some(table) = table_of(checker, entry) else { return draught };
    for entry in &table.0 {
        match TABLES.iter().position(|name| *name == entry.key) {
            Some(how) => {
                if let Some(table) = table_of(checker, entry) {
                    axes(checker, table, how, &mut Vec::new(), &mut draught.axes);
                }
            }
            None if entry.key == MONOTONE => match &entry.item.tree {
                Tree::Text(text) => draught.monotone = Some((text, &entry.item.place)),
                _ => {
                    let problem = Diagnostic::error(
                        &entry.item.place,
                        format!("`{MONOTONE}` cannot be {}", entry.item.describe()),
                    );
                    checker.complain(problem.label("expected the name of a swept parameter in quotes"));
                }
            },
            None => {
                let known = [TABLES.as_slice(), &[MONOTONE]].concat();
                let problem = Diagnostic::error(&entry.key_place, format!("unknown key `{}`", entry.key))
                    .label("not a key of table `sweep`")
                    .hint(suggest(&entry.key, "its keys are", &known));
                checker.complain(problem);
            }
        }
    }
    draught
}

fn table_of<'a>(checker: &mut Checker<'_>, entry: &'a Entry) -> Option<&'a Table> {
    let table = entry.item.table();
    if table.is_none() && !matches!(entry.item.tree, Tree::Broken) {
        let problem =
            Diagnostic::error(&entry.item.place, format!("`{}` cannot be {}", entry.key, entry.item.describe()));
        checker.complain(problem.label("expected a table"));
    }
    table
}

/// `"lora.batch_size" = [..]` and `lora.batch_size = [..]` are the same.
fn axes<'a>(
    checker: &mut Checker<'_>,
    table: &'a Table,
    how: usize,
    above: &mut Vec<String>,
    found: &mut Vec<Written<'a>>,
) {
    for entry in &table.0 {
        let depth = above.len();
        above.extend(entry.key.split('.').map(str::to_owned));
        match &entry.item.tree {
            Tree::Table(inner) => axes(checker, inner, how, above, found),
            Tree::Broken => {}
            tree => {
                let items = match tree {
                    Tree::List(items) => items.iter().collect(),
                    _ => vec![&entry.item],
                };
                if !matches!(tree, Tree::List(_)) && TABLES[how] != "ablate" {
                    let written = entry.item.place.text();
                    let problem = Diagnostic::error(&entry.item.place, "a sweep needs a list of values");
                    checker.complain(problem.hint(format!("a list of one is written `[{written}]`")));
                } else if items.is_empty() {
                    checker.complain(Diagnostic::error(&entry.item.place, "this list of values is empty"));
                } else {
                    let key = above.join(".");
                    found.push(Written { key, place: &entry.key_place, path: above.clone(), items, how });
                }
            }
        }
        above.truncate(depth);
    }
}

/// Puts the first value of a swept parameter into its stage's table where the stage requires it and the table lacks it,
/// so that a required parameter may be given by a sweep alone.
pub(super) fn complete<'a>(registry: &Registry, stages: &'a Table, draught: &Draught<'_>) -> Cow<'a, Table> {
    let mut stages = Cow::Borrowed(stages);
    for written in &draught.axes {
        let ([stage, key], Some(first)) = (written.path.as_slice(), written.items.first()) else { continue };
        let Some(table) = stages.get(stage).and_then(|entry| entry.item.table()) else { continue };
        let Some(Tree::Text(kind)) = table.get("kind").map(|entry| &entry.item.tree) else { continue };
        let params = registry.get(kind).map(|kind| kind.params()).unwrap_or_default();
        let required = params.iter().any(|param| param.name == key && param.default.is_none());
        // An ablation changes what is there.
        if required && table.get(key).is_none() && TABLES[written.how] != "ablate" {
            let path: Vec<_> = written.path.iter().map(|key| (key.clone(), written.place.clone())).collect();
            stages.to_mut().put(&path, Item::clone(first));
        }
    }
    stages
}

/// Checks every value, and combines them. `None` if something was wrong, which was then reported.
pub(super) fn check(checker: &mut Checker<'_>, draught: &Draught<'_>, drafts: &[Draft<'_>]) -> Option<Sweep> {
    let before = checker.problems.len();
    let mut sweep = Sweep::default();
    for (at, written) in draught.axes.iter().enumerate() {
        if draught.axes[..at].iter().any(|other| other.key == written.key) {
            let message = format!("`{}` is swept twice", written.key);
            checker.complain(Diagnostic::error(written.place, message));
        }
        overridden(checker, written, drafts);
        let values = match target(checker, written, drafts) {
            Some((stage, param)) => values(checker, written, &param).map(|values| (stage, values)),
            None => None,
        };
        let (stage, values) = values.unwrap_or((None, Vec::new()));
        sweep.axes.push(Axis::new(written.key.clone(), stage, values));
    }
    groups(checker, draught, &mut sweep);
    if let Some((name, place)) = draught.monotone {
        let named: Vec<u32> = (0..sweep.axes.len() as u32)
            .filter(|axis| {
                let axis = &sweep.axes[*axis as usize];
                axis.key == name || axis.key.rsplit('.').next() == Some(name)
            })
            .collect();
        match named.as_slice() {
            [axis] => {
                sweep.monotone = Some(*axis);
                if sweep.axes[*axis as usize].values.iter().any(|value| !value.is_number()) {
                    checker.complain(Diagnostic::error(
                        place,
                        format!("`{name}` is no number, so it has no larger values"),
                    ));
                }
            }
            [] => {
                let keys: Vec<&str> = sweep.axes.iter().map(|axis| axis.key.as_str()).collect();
                let problem = Diagnostic::error(place, format!("`{name}` is not swept"));
                checker.complain(problem.hint(suggest(name, "swept are", &keys)));
            }
            _ => {
                let problem = Diagnostic::error(place, format!("several stages have a swept `{name}`"));
                checker.complain(problem.hint("write `STAGE.PARAMETER`".to_owned()));
            }
        }
    }
    (checker.problems.len() == before).then_some(sweep)
}

/// `--set` of a swept parameter would change nothing.
fn overridden(checker: &mut Checker<'_>, written: &Written<'_>, drafts: &[Draft<'_>]) {
    let [stage, keys @ ..] = written.path.as_slice() else { return };
    let mut level = drafts.iter().find(|draft| draft.name == stage).and_then(|draft| draft.table);
    for key in keys {
        let Some(entry) = level.and_then(|table| table.get(key)) else { return };
        level = entry.item.table();
        let set = entry.item.place.source.is_set() && !written.place.source.is_set();
        if set && level.is_none() {
            let problem = Diagnostic::error(
                &entry.item.place,
                format!("`{}` is swept, so this would change nothing", written.key),
            );
            let value = entry.item.place.text();
            checker.complain(problem.hint(format!("choose among its values with `--cell {}={value}`", written.key)));
        }
    }
}

/// The stage, by number, and the parameter that a key names; no stage: the experiment's seed.
fn target(checker: &mut Checker<'_>, written: &Written<'_>, drafts: &[Draft<'_>]) -> Option<(Option<usize>, Swept)> {
    let mut complain = |message: String, hint: Option<String>| {
        checker.complain(Diagnostic::error(written.place, message).hint(hint));
        None
    };
    let [stage, keys @ ..] = written.path.as_slice() else { return None };
    let Some((last, above)) = keys.split_last() else {
        return complain(format!("`{}` names no parameter", written.key), Some("write `STAGE.PARAMETER`".to_owned()));
    };
    if stage == "experiment" {
        let seed = super::Experiment::params().into_iter().find(|param| param.name == "seed" && keys == ["seed"]);
        return match seed {
            Some(seed) => Some((None, seed.into())),
            None => complain(
                format!("`{}` cannot be swept", written.key),
                Some("of the experiment only `experiment.seed` can".to_owned()),
            ),
        };
    }
    let Some(at) = drafts.iter().position(|draft| draft.name == stage) else {
        let names: Vec<&str> = drafts.iter().map(|draft| draft.name).collect();
        return complain(
            format!("there is no stage `{stage}` to sweep over"),
            suggest(stage, "the stages are", &names),
        );
    };
    // What is wrong with its kind was reported there.
    let kind = drafts[at].kind.as_ref()?;
    let mut params = kind.params();
    let fixed =
        |key: &String| ["kind", "inputs"].contains(&key.as_str()) || StageOptions::names().contains(&key.as_str());
    if let Some(first) = keys.first().filter(|key| fixed(key)) {
        return complain(format!("`{first}` cannot be swept"), Some("only parameters of a stage can".to_owned()));
    }
    for key in above {
        let table = params.iter().find(|param| param.name == key).map(|param| param.shape.clone());
        params = match table {
            Some(Shape::Table(params)) => params,
            // Of a table with any keys, every key is a parameter; tables below it have no shape of their own.
            Some(Shape::Map(shape)) if above.last() == Some(key) => {
                return Some((Some(at), Swept { name: last.clone(), unit: "", shape: *shape }));
            }
            _ => return complain(format!("stage `{stage}` has no table `{key}`"), None),
        };
    }
    if let Some(param) = params.iter().find(|param| param.name == last) {
        return Some((Some(at), param.clone().into()));
    }
    let names: Vec<&str> = params.iter().map(|param| param.name).collect();
    complain(
        format!("stage kind `{}` has no parameter `{}`", kind.kind(), keys.join(".")),
        suggest(last, "its parameters are", &names),
    )
}

fn values(checker: &mut Checker<'_>, written: &Written<'_>, param: &Swept) -> Option<Vec<Value>> {
    let mut items = written.items.clone();
    let mut whole = None;
    if let (Shape::List(_), "ablate", Some(first)) = (&param.shape, TABLES[written.how], items.first())
        && !matches!(first.tree, Tree::List(_))
    {
        // `targets = ["q_proj"]` is one value of a parameter that is a list.
        let tree = Tree::List(items.iter().copied().cloned().collect());
        whole = Some(Item { place: first.place.clone(), tree });
    }
    if let Some(whole) = &whole {
        items = vec![whole];
    }
    let mut values: Vec<Value> = Vec::new();
    let mut sound = true;
    for item in items {
        match checker.value(&param.name, param.unit, &param.shape, item) {
            Some(value) if values.contains(&value) => {
                checker.complain(Diagnostic::error(&item.place, "this value is there twice"));
                sound = false;
            }
            Some(value) => values.push(value),
            None => sound = false,
        }
    }
    sound.then_some(values)
}

fn groups(checker: &mut Checker<'_>, draught: &Draught<'_>, sweep: &mut Sweep) {
    let of = |how: &str| {
        let numbered = draught.axes.iter().enumerate().filter(move |(_, written)| TABLES[written.how] == how);
        numbered.map(|(at, _)| at as u32).collect::<Vec<u32>>()
    };
    let length = |axis: u32| sweep.axes[axis as usize].values.len() as u32;
    let mut groups: Vec<Vec<Setting>> =
        of("grid").into_iter().map(|axis| (0..length(axis)).map(|value| vec![(axis, value)]).collect()).collect();
    let together = of("zip");
    if let Some(first) = together.first() {
        for axis in &together[1..] {
            if length(*axis) != length(*first) {
                let (key, other) = (&sweep.axes[*axis as usize].key, &sweep.axes[*first as usize].key);
                let message = format!("`{key}` has {} values and `{other}` has {}", length(*axis), length(*first));
                let problem = Diagnostic::error(draught.axes[*axis as usize].place, message);
                checker.complain(problem.hint("lists in `sweep.zip` go together, so they have one length".to_owned()));
            }
        }
        let point = |value: u32| together.iter().map(|axis| (*axis, value)).collect();
        groups.push((0..length(*first)).map(point).collect());
    }
    let changes = of("ablate");
    if !changes.is_empty() {
        let one = |axis: u32| (0..length(axis)).map(move |value| vec![(axis, value)]);
        groups.push(std::iter::once(Vec::new()).chain(changes.into_iter().flat_map(one)).collect());
    }
    sweep.groups = groups;
}

/// How many cells are too many to be meant; and a problem if there are more.
pub(super) fn too_many(sweep: &Sweep, draught: &Draught<'_>, most: usize) -> Option<Diagnostic> {
    let cells = sweep.cells();
    let axes: Vec<&str> = sweep.axes.iter().map(|axis| axis.key.as_str()).collect();
    (cells > most).then(|| {
        let count = if cells == usize::MAX { "countless".to_owned() } else { cells.to_string() };
        draught.place.map(|place| {
            Diagnostic::error(place, format!("this sweep has {count} cells"))
                .label(format!("combines {}", list(&axes)))
                .hint("take values away, or add `--yes` if you mean it".to_owned())
        })
    })?
}
