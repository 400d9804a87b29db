//! The `[stages]` table: kinds, parameters, options, and connections between ports.
//!
//! Unaware of files' contents and of what will run.
use super::tree::{Entry, Item, Table, Tree};
use super::values::{Checker, Owner};
use super::words::{list, suggest};
use crate::diagnostic::{Diagnostic, Place};
use crate::graph::StageId;
use crate::options::{Declared, StageOptions};
use crate::param::{Param, ParamSet};
use crate::registry::Registry;
use crate::stage::{Port, Stage};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, OnceLock};

/// Keys of every stage that are not parameters.
static RESERVED: LazyLock<Vec<&str>> = LazyLock::new(|| [&["kind", "inputs"], StageOptions::names()].concat());

/// What is the same for all stages of a kind: text for people too, which costs more to make than a stage costs to check.
struct OfKind {
    label: String,
    declared: Arc<[Param]>,
}

/// By name of the kind, made when the first stage needs it.
type OfKinds = BTreeMap<&'static str, OnceLock<OfKind>>;

/// A stage while it is being checked; what could not be made out is absent.
pub(super) struct Draft<'a> {
    pub(super) name: &'a str,
    pub(super) place: &'a Place,
    pub(super) table: Option<&'a Table>,
    pub(super) kind: Option<Arc<dyn Stage>>,
    pub(super) declared: Arc<[Param]>,
    pub(super) params: Option<Arc<Value>>,
    pub(super) options: Option<Arc<StageOptions>>,
    pub(super) output: Option<&'static str>,
    pub(super) inputs: Vec<Link<'a>>,
}

/// An input of a stage and the stage that it comes from.
pub(super) struct Link<'a> {
    pub(super) name: &'a str,
    /// Absent for an input that may have any name and any type.
    port: Option<Port>,
    pub(super) from: StageId,
    place: &'a Place,
}

/// Reads the stages one by one, then connects them.
pub(super) fn read<'a>(checker: &mut Checker<'_>, registry: &Registry, stages: &'a Table) -> Vec<Draft<'a>> {
    let kinds: OfKinds = registry.kinds().iter().map(|kind| (kind.kind(), OnceLock::new())).collect();
    let mut drafts = checker.each(&stages.0, |checker, entry| draft(checker, registry, entry, &kinds));
    let ids: HashMap<&str, StageId> =
        drafts.iter().enumerate().map(|(i, draft)| (draft.name, StageId(i as u32))).collect();
    for at in 0..drafts.len() {
        let inputs = connect(checker, &drafts[at], &drafts, &ids);
        drafts[at].inputs = inputs;
    }
    drafts
}

fn draft<'a>(checker: &mut Checker<'_>, registry: &Registry, entry: &'a Entry, kinds: &OfKinds) -> Draft<'a> {
    let (name, place) = (entry.key.as_str(), &entry.key_place);
    let mut draft = Draft {
        name,
        place,
        table: None,
        kind: None,
        declared: Arc::default(),
        params: None,
        options: None,
        output: None,
        inputs: Vec::new(),
    };
    let ambiguous = ["experiment", "sweep"].contains(&name).then_some("`--set NAME.KEY=VALUE` would be ambiguous");
    if let Some(wrong) = super::bad_name(name, &['-']).or(ambiguous) {
        let message = format!("a stage cannot have the name `{}`: {wrong}", name.escape_debug());
        checker.complain(Diagnostic::error(place, message));
    }
    let Some(table) = entry.item.table() else {
        if !matches!(entry.item.tree, Tree::Broken) {
            let message = format!("stage `{name}` cannot be {}", entry.item.describe());
            let hint = format!("write a table `[stages.{name}]` with a `kind`");
            checker.complain(Diagnostic::error(&entry.item.place, message).hint(hint));
        }
        return draft;
    };
    draft.table = Some(table);
    let Some(kind) = kind(checker, registry, name, place, table) else { return draft };
    let of_kind = || OfKind { label: format!("stage kind `{}`", kind.kind()), declared: kind.params().into() };
    let Some(of_kind) = kinds.get(kind.kind()).map(|known| known.get_or_init(of_kind)) else { return draft };
    let owner = Owner { name: &of_kind.label, place, reserved: &RESERVED };
    draft.params = checker.params(&owner, &of_kind.declared, table).map(Arc::new);
    draft.declared = Arc::clone(&of_kind.declared);
    draft.options = options(checker, table);
    draft.output = draft.params.as_ref().map(|params| kind.output(params));
    draft.kind = Some(kind);
    draft
}

/// The keys that every stage may have.
fn options(checker: &mut Checker<'_>, table: &Table) -> Option<Arc<StageOptions>> {
    let names = StageOptions::names();
    let option = |entry: &&Entry| names.contains(&entry.key.as_str());
    if table.0.iter().find(option).is_none() {
        // Shared: most stages of most manifests have none.
        static NONE: LazyLock<Arc<StageOptions>> = LazyLock::new(Arc::default);
        return Some(Arc::clone(&NONE));
    }
    let written = Table(table.0.iter().filter(option).cloned().collect());
    let place = &written.0[0].key_place;
    let owner = Owner { name: "a stage", place, reserved: &[] };
    let values = checker.params(&owner, &Declared::params(), &written)?;
    match StageOptions::new(&values) {
        Ok(options) => Some(Arc::new(options)),
        Err((key, message)) => {
            let place = written.get(key).map_or(place, |entry| &entry.item.place);
            let problem = Diagnostic::error(place, message);
            checker.complain(problem.hint("write a number and a unit, such as `\"40 GiB\"`".to_owned()));
            None
        }
    }
}

fn kind(
    checker: &mut Checker<'_>,
    registry: &Registry,
    name: &str,
    place: &Place,
    table: &Table,
) -> Option<Arc<dyn Stage>> {
    let kinds = || registry.kinds().iter().map(|kind| kind.kind()).collect::<Vec<&str>>();
    let Some(entry) = table.get("kind") else {
        if !checker.recovered {
            let hint = format!("add `kind = \"...\"`, one of {}", list(&kinds()));
            let problem = Diagnostic::error(place, format!("stage `{name}` has no `kind`"));
            checker.complain(problem.label("`kind` is missing").hint(hint));
        }
        return None;
    };
    match &entry.item.tree {
        Tree::Text(text) => {
            let found = registry.get(text).cloned();
            if found.is_none() {
                let problem = Diagnostic::error(&entry.item.place, format!("there is no stage kind `{text}`"));
                checker.complain(problem.hint(suggest(text, "the kinds are", &kinds())));
            }
            found
        }
        Tree::Broken => None,
        _ => {
            let problem = Diagnostic::error(&entry.item.place, format!("`kind` cannot be {}", entry.item.describe()));
            checker.complain(problem.label("expected the name of a kind in quotes").hint(list(&kinds())));
            None
        }
    }
}

/// The links of one stage in the order of its kind's ports.
fn connect<'a>(
    checker: &mut Checker<'_>,
    draft: &Draft<'a>,
    drafts: &[Draft<'a>],
    ids: &HashMap<&str, StageId>,
) -> Vec<Link<'a>> {
    let (Some(kind), Some(table)) = (&draft.kind, draft.table) else { return Vec::new() };
    let ports = kind.inputs();
    let mut links = Vec::new();
    // A table that could not be read says nothing of the ports that are missing.
    let mut readable = !checker.recovered;
    let entry = table.get("inputs");
    match entry.map(|entry| &entry.item.tree) {
        None => {}
        Some(Tree::Table(inputs)) => {
            for entry in &inputs.0 {
                let (name, place) = (entry.key.as_str(), &entry.item.place);
                let port = ports.iter().find(|port| port.name == name).copied();
                if port.is_none() && !kind.open_inputs() {
                    unknown_port(checker, kind.kind(), ports, inputs, entry);
                    readable = false;
                    continue;
                }
                if let (None, Some(wrong)) = (port, super::bad_name(name, &['-'])) {
                    let message = format!("an input cannot have the name `{}`: {wrong}", name.escape_debug());
                    checker.complain(Diagnostic::error(&entry.key_place, message));
                }
                match source_of(checker, draft.name, name, &entry.item, ids) {
                    Some(from) => links.push(Link { name, port, from, place }),
                    None => readable = false,
                }
            }
        }
        Some(tree) => {
            readable = false;
            if let (Some(entry), false) = (entry, matches!(tree, Tree::Broken)) {
                let problem =
                    Diagnostic::error(&entry.item.place, format!("`inputs` cannot be {}", entry.item.describe()));
                checker.complain(problem.hint("write `inputs = { port = \"stage\" }`".to_owned()));
            }
        }
    }
    // Declared ones in their order, then the others by name.
    let rank = |link: &Link<'_>| ports.iter().position(|port| port.name == link.name).unwrap_or(ports.len());
    links.sort_by(|a, b| rank(a).cmp(&rank(b)).then(a.name.cmp(b.name)));
    for port in ports.iter().filter(|port| port.required && readable) {
        if links.iter().all(|link| link.name != port.name) {
            missing_port(checker, draft, port, drafts);
        }
    }
    for link in &links {
        check_type(checker, kind.as_ref(), link, &drafts[link.from.index()]);
    }
    links
}

fn source_of(
    checker: &mut Checker<'_>,
    stage: &str,
    input: &str,
    item: &Item,
    ids: &HashMap<&str, StageId>,
) -> Option<StageId> {
    let Tree::Text(name) = &item.tree else {
        if !matches!(item.tree, Tree::Broken) {
            let problem = Diagnostic::error(&item.place, format!("input `{input}` cannot be {}", item.describe()));
            checker.complain(problem.label("expected the name of a stage in quotes"));
        }
        return None;
    };
    let found = ids.get(name.as_str()).copied();
    if found.is_none() {
        let mut others: Vec<&str> = ids.keys().copied().filter(|other| *other != stage).collect();
        others.sort_unstable();
        let problem = Diagnostic::error(&item.place, format!("there is no stage `{name}`"));
        checker.complain(problem.hint(suggest(name, "the other stages are", &others)));
    }
    found
}

fn unknown_port(checker: &mut Checker<'_>, kind: &str, ports: &[Port], inputs: &Table, entry: &Entry) {
    let free: Vec<&str> = ports.iter().map(|port| port.name).filter(|name| inputs.get(name).is_none()).collect();
    let problem = Diagnostic::error(&entry.key_place, format!("stage kind `{kind}` has no input `{}`", entry.key));
    let hint = match ports {
        [] => Some("it takes no inputs".to_owned()),
        _ => suggest(&entry.key, "inputs not yet connected", &free),
    };
    checker.complain(problem.hint(hint));
}

fn missing_port(checker: &mut Checker<'_>, draft: &Draft<'_>, port: &Port, drafts: &[Draft<'_>]) {
    let fitting: Vec<&str> = drafts
        .iter()
        .filter(|other| other.name != draft.name && other.output.is_some_and(|output| port.accepts.contains(&output)))
        .map(|other| other.name)
        .collect();
    let hint = match fitting.as_slice() {
        [] => format!("it takes {} ({}), which no stage here makes", list(port.accepts), port.doc),
        [one] => format!("add `inputs = {{ {} = \"{one}\" }}`", port.name),
        many => format!("stages that would fit: {}", list(many)),
    };
    let place = draft.table.and_then(|table| table.get("inputs")).map_or(draft.place, |entry| &entry.key_place);
    let problem = Diagnostic::error(place, format!("stage `{}` needs input `{}`", draft.name, port.name));
    checker.complain(problem.label(format!("input `{}` is not connected", port.name)).hint(hint));
}

fn check_type(checker: &mut Checker<'_>, kind: &dyn Stage, link: &Link<'_>, from: &Draft<'_>) {
    let accepts = link.port.map_or(kind.open_accepts(), |port| port.accepts);
    // An input of any name and any type.
    if link.port.is_none() && accepts.is_empty() {
        return;
    }
    let Some(output) = from.output.filter(|output| !accepts.contains(output)) else { return };
    let fitting: Vec<&str> =
        kind.inputs().iter().filter(|port| port.accepts.contains(&output)).map(|port| port.name).collect();
    let hint = match fitting.as_slice() {
        [] if kind.open_inputs() && kind.open_accepts().is_empty() => {
            "an input of any other name takes everything".to_owned()
        }
        [] if kind.open_accepts().contains(&output) => format!("an input of any other name takes `{output}`"),
        [] => format!("no input of `{}` takes `{output}`", kind.kind()),
        ports => format!("`{output}` fits {}", list(ports)),
    };
    let (name, accepts) = (link.name, list(accepts));
    let message = format!("input `{name}` takes {accepts}, but stage `{}` makes `{output}`", from.name);
    checker.complain(Diagnostic::error(link.place, message).label(format!("this is `{output}`")).hint(hint));
}

/// Reports every circle as a closed path in the direction of the data; says whether there is one.
pub(super) fn check_cycles(checker: &mut Checker<'_>, drafts: &[Draft<'_>]) -> bool {
    let edges: Vec<Vec<StageId>> = drafts.iter().map(|d| d.inputs.iter().map(|link| link.from).collect()).collect();
    let cycles = crate::graph::cycles(&edges);
    for path in &cycles {
        let names: Vec<&str> = path.iter().map(|id| drafts[id.index()].name).collect();
        let [.., before, last] = path.as_slice() else { continue };
        let into = drafts[last.index()].inputs.iter().find(|link| link.from == *before);
        let place = into.map_or(drafts[last.index()].place, |link| link.place);
        let problem = Diagnostic::error(place, format!("these stages need each other: {}", names.join(" -> ")));
        checker.complain(problem.label("this closes the circle").hint("take one of these inputs away".to_owned()));
    }
    !cycles.is_empty()
}
