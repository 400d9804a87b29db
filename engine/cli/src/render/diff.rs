//! What differs between two runs: short and aligned for a terminal, or as Markdown for the comment on a pull request.
//!
//! Long lists are cut, and how much was left out is said; only JSON has everything. Unaware of how runs are compared.
#[cfg(test)]
mod tests;

use super::table::{Look, draw, safe};
use anneal_engine::compare::{Comparison, KeyChange, Measured, Parameter, StateChange};
use anneal_engine::key::{Change, Digest};
use std::collections::{HashMap, HashSet};

/// Most lines of a list. A comment on a pull request may have 65,536 characters.
const ROWS: usize = 100;
/// Most names in a line.
const NAMES: usize = 8;
/// Most characters of a value.
const VALUE: usize = 60;

/// For a terminal.
pub(crate) fn text(all: &Comparison) -> String {
    let look = Look::Text;
    let mut text = format!("base  {}\nrun   {}\n", safe(&all.base, look), safe(&all.run, look));
    for remark in &all.remarks {
        text += &format!("note: {}\n", safe(remark, look));
    }
    if all.is_empty() {
        return text + "\nno differences\n";
    }
    let others = if all.outputs.is_empty() { Vec::new() } else { vec![safe(&names(&all.outputs), look)] };
    let sections = [
        ("parameters", parameters(all, look)),
        ("results", results(all, look)),
        ("states", states(all, look)),
        ("stages", stages(all, look)),
        ("other keys", keys(all, look)),
        ("other bytes for the same key", others),
    ];
    for (title, lines) in sections.into_iter().filter(|(_, lines)| !lines.is_empty()) {
        text += &format!("\n{title}\n");
        lines.iter().for_each(|line| text += &format!("  {}\n", line.trim_end()));
    }
    text
}

/// For a page that somebody renders.
pub(crate) fn markdown(all: &Comparison) -> String {
    let look = Look::Markdown;
    let mut text = format!("**{}** against base {}\n", safe(&all.run, look), safe(&all.base, look));
    for remark in &all.remarks {
        text += &format!("\n> {}\n", safe(remark, look));
    }
    if all.is_empty() {
        return text + "\nNo differences.\n";
    }
    match results(all, look).join("\n") {
        table if table.is_empty() => text += "\nNo metric differs.\n",
        table => text += &format!("\n{table}\n"),
    }
    let list = |lines: Vec<String>| lines.iter().map(|line| format!("- {line}\n")).collect::<String>();
    for (title, lines) in [("States", states(all, look)), ("Parameters", parameters(all, look))] {
        if !lines.is_empty() {
            text += &format!("\n**{title}**\n\n{}", list(lines));
        }
    }
    let mut changed = stages(all, look);
    changed.extend(keys(all, look));
    if !all.outputs.is_empty() {
        changed.push(format!("other bytes for the same key: {}", safe(&names(&all.outputs), look)));
    }
    if !changed.is_empty() {
        let count = super::progress::count(all.keys.len(), "stage");
        text += &format!("\n<details><summary>{count} with another key</summary>\n\n{}\n</details>\n", list(changed));
    }
    text
}

fn more_of(more: usize) -> String {
    format!("and {more} more; --json has all")
}

/// At most [`NAMES`] names.
fn names(names: &[String]) -> String {
    let mut text = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMES {
        text += &format!(" and {} more", names.len() - NAMES);
    }
    text
}

/// A value, not longer than a glance.
fn short(value: &str) -> String {
    if value.chars().count() <= VALUE {
        return value.to_owned();
    }
    format!("{}...", value.chars().take(VALUE - 3).collect::<String>())
}

/// A digest by its first digits, anything else as it is.
fn digest(value: &str) -> String {
    value.trim_matches('"').parse().map_or_else(|_| value.to_owned(), |digest: Digest| digest.short())
}

fn arrow(old: Option<&str>, new: Option<&str>) -> String {
    let side = |side: Option<&str>| side.map_or_else(|| "(absent)".to_owned(), short);
    format!("{} -> {}", side(old), side(new))
}

/// `name   what`, the names as wide as the widest; in Markdown nothing is aligned.
fn pairs(lines: &[(String, String)], look: Look) -> Vec<String> {
    let width = lines.iter().take(ROWS).map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let line = |(name, what): &(String, String)| match look {
        Look::Text => format!("{:<width$}  {}", safe(name, look), safe(what, look)),
        // An arrow is no quotation.
        Look::Markdown => format!("{}: {}", safe(name, look), safe(what, look).replace("-\\>", "->")),
    };
    let mut told: Vec<String> = lines.iter().take(ROWS).map(line).collect();
    told.extend((lines.len() > ROWS).then(|| more_of(lines.len() - ROWS)));
    told
}

fn parameters(all: &Comparison, look: Look) -> Vec<String> {
    let parameter = |Parameter { stage, name, old, new }: &Parameter| {
        let stage = stage.as_deref().unwrap_or("experiment");
        (format!("{stage}.{name}"), arrow(old.as_deref(), new.as_deref()))
    };
    let mut lines: Vec<_> = all.parameters.iter().map(parameter).collect();
    lines.extend(all.inputs.iter().map(|rewired| {
        let name = format!("{}.inputs.{}", rewired.stage, rewired.port);
        (name, arrow(rewired.old.as_deref(), rewired.new.as_deref()))
    }));
    pairs(&lines, look)
}

fn results(all: &Comparison, look: Look) -> Vec<String> {
    let fleeting = fleeting(all);
    let of_stage = |measured: &Measured| matches!(measured.metric.as_str(), "seconds" | "peak_mib");
    let told = |measured: &&Measured| !(of_stage(measured) && fleeting.contains(measured.stage.as_str()));
    let all: Vec<&Measured> = all.results.iter().filter(told).collect();
    if all.is_empty() {
        return Vec::new();
    }
    let row = |measured: &Measured, stage: &str| {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| measured.format().text(value));
        let change = measured.change().unwrap_or_else(|| "-".to_owned());
        vec![stage.to_owned(), measured.metric.clone(), number(measured.old), number(measured.new), change]
    };
    let mut last = "";
    let mut rows = Vec::new();
    for measured in all.iter().copied().take(ROWS) {
        // On a terminal a stage is named once; in a table that somebody may sort, in each row.
        let again = look == Look::Text && last == measured.stage;
        rows.push(row(measured, if again { "" } else { &measured.stage }));
        last = &measured.stage;
    }
    let head = ["stage", "metric", "base", "this run", "change"].map(str::to_owned).to_vec();
    let mut lines: Vec<String> = draw(head, rows, 2, look).lines().map(str::to_owned).collect();
    if all.len() > ROWS {
        // A line of its own: right below a Markdown table it would be a row.
        lines.extend((look == Look::Markdown).then(String::new));
        lines.push(more_of(all.len() - ROWS));
    }
    lines
}

/// Stages that took less than a second both times: their time and memory say something of the machine only.
fn fleeting(all: &Comparison) -> HashSet<&str> {
    let short = |value: Option<f64>| value.is_some_and(|seconds| seconds < 1.0);
    let times = all.results.iter().filter(|measured| measured.metric == "seconds");
    times.filter(|time| short(time.old) && short(time.new)).map(|time| time.stage.as_str()).collect()
}

/// Stages that went the same way are told together.
fn states(all: &Comparison, look: Look) -> Vec<String> {
    let mut groups: Vec<(&StateChange, Vec<String>)> = Vec::new();
    let mut places = HashMap::new();
    for change in &all.states {
        let at = *places.entry((&change.old, &change.new, &change.why)).or_insert_with(|| {
            groups.push((change, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(change.stage.clone());
    }
    let line = |(change, stages): &(&StateChange, Vec<String>)| {
        let why = change.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        (names(stages), format!("{} -> {}{why}", change.old, change.new))
    };
    pairs(&groups.iter().map(line).collect::<Vec<_>>(), look)
}

fn stages(all: &Comparison, look: Look) -> Vec<String> {
    let line = |presence: &anneal_engine::compare::Presence| {
        let sign = if presence.added { "added" } else { "removed" };
        (presence.stage.clone(), format!("{sign} ({})", presence.kind))
    };
    pairs(&all.stages.iter().map(line).collect::<Vec<_>>(), look)
}

fn keys(all: &Comparison, look: Look) -> Vec<String> {
    let line = |change: &KeyChange| {
        let mut why = match &change.first {
            Some(Change { path, old, new }) => {
                let side = |side: &Option<String>| side.as_deref().map(digest);
                format!("{path}: {}", arrow(side(old).as_deref(), side(new).as_deref()))
            }
            None => "the reason is no longer in the store".to_owned(),
        };
        if change.more > 0 {
            why += &format!(" and {} more", change.more);
        }
        if change.same_output {
            why += "; the same output";
        }
        (change.stage.clone(), why)
    };
    pairs(&all.keys.iter().map(line).collect::<Vec<_>>(), look)
}
