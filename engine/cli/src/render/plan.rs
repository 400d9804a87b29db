//! A plan as text: a line or two for every stage, and for a stage with very many instances one summary.
//!
//! Unaware of how a plan is made.
use anneal_engine::cause::{Outlook, Reason};
use anneal_engine::graph::{Pipeline, StageId};
use anneal_engine::key::Change;
use std::collections::BTreeMap;

/// Instances of one stage that are listed one by one.
const LISTED: usize = 40;
/// Causes that a summary names.
const CAUSES: usize = 5;
/// A reason no longer than this goes behind the word.
const SHORT: usize = 80;

/// Words for states, in the order of a summary.
const STATES: [&str; 6] = ["cached", "run", "after", "failed", "stuck", "blocked"];

/// One word for a state.
pub(crate) fn state(outlook: &Outlook) -> &'static str {
    STATES[match outlook {
        Outlook::Cached => 0,
        Outlook::Run(_) => 1,
        Outlook::After(..) => 2,
        Outlook::Failed(..) => 3,
        Outlook::Stuck(_) => 4,
        Outlook::Blocked(_) => 5,
    }]
}

/// The plan, piece by piece; `all`: every instance, however many.
pub(crate) fn text<'a>(
    pipeline: &'a Pipeline,
    stages: &'a [(StageId, &'a Outlook)],
    all: bool,
) -> impl Iterator<Item = String> + 'a {
    let mut of_base = vec![0; pipeline.bases.len()];
    stages.iter().for_each(|(id, _)| of_base[pipeline.node(*id).base as usize] += 1);
    let summed = move |id: StageId| !all && of_base[pipeline.node(id).base as usize] > LISTED;
    let name = |id: StageId| if summed(id) { pipeline.base(id) } else { pipeline.node(id).name.as_str() };
    let width = stages.iter().map(|(id, _)| name(*id).chars().count()).max().unwrap_or(0);
    // Instances of one stage follow each other.
    let groups = stages.chunk_by(move |(a, _), (b, _)| pipeline.node(*a).base == pipeline.node(*b).base);
    let body = groups.flat_map(move |group| match group.first() {
        Some((first, _)) if summed(*first) => vec![summary(pipeline, group, width)],
        _ => group.iter().map(|(id, outlook)| line(pipeline, *id, outlook, width)).collect(),
    });
    body.chain(std::iter::once_with(|| format!("\n{}\n", total(stages))))
}

/// A stage.
fn line(pipeline: &Pipeline, id: StageId, outlook: &Outlook, width: usize) -> String {
    let names = |ids: &[StageId]| {
        let shown: Vec<&str> = ids.iter().take(CAUSES).map(|id| pipeline.node(*id).name.as_str()).collect();
        let more = ids.len().saturating_sub(CAUSES);
        shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    };
    let mut details = Vec::new();
    if let Some(cause) = outlook.cause() {
        details.push(cause.text(pipeline));
        // A seed that changed for all has been told.
        let told = |change: &&Change| matches!(&cause.reason, Reason::Changed(first) if first == *change);
        details.extend(cause.also.iter().filter(|change| !told(change)).map(|change| format!("also {change}")));
    }
    let word = match outlook {
        Outlook::Cached => "cached".to_owned(),
        Outlook::Run(_) => "run".to_owned(),
        Outlook::After(waits, _) => format!("after {}", names(waits)),
        Outlook::Failed(failure, again) => {
            details.push(format!("{}: {}", failure.class, failure.message));
            details.extend(again.as_ref().map(|again| format!("to run it again: {again}")));
            "failed before and would again".to_owned()
        }
        Outlook::Stuck(from) => format!("cannot run: `{}` has no result", pipeline.node(*from).name),
        Outlook::Blocked(failure) => {
            details.push(failure.message.clone());
            "blocked".to_owned()
        }
    };
    let mut text = format!("{:<width$}  {word}", pipeline.node(id).name);
    match details.as_slice() {
        // A single short reason fits behind the word.
        [one] if !one.contains('\n') && one.chars().count() <= SHORT => text += &format!(": {one}\n"),
        many => {
            text.push('\n');
            many.iter().for_each(|detail| text += &format!("{:width$}    {detail}\n", ""));
        }
    }
    text
}

/// All instances of a stage: how many are in which state, and the causes that most of them have.
fn summary(pipeline: &Pipeline, group: &[(StageId, &Outlook)], width: usize) -> String {
    let base = group.first().map_or("", |(id, _)| pipeline.base(*id));
    let mut text = format!("{base:<width$}  {} instances: {}\n", group.len(), counts(group).join(", "));
    let mut causes: BTreeMap<String, usize> = BTreeMap::new();
    for (_, outlook) in group {
        let told = match outlook {
            Outlook::Failed(failure, _) if failure.inferred => format!("{} (inferred)", failure.class),
            Outlook::Failed(failure, _) => format!("{}: {}", failure.class, failure.message),
            Outlook::Blocked(failure) => failure.message.clone(),
            Outlook::Stuck(from) => format!("`{}` has no result", pipeline.base(*from)),
            other => match other.cause() {
                Some(cause) => cause.base_text(pipeline),
                None => continue,
            },
        };
        *causes.entry(told).or_default() += 1;
    }
    let mut causes: Vec<(String, usize)> = causes.into_iter().collect();
    // The sort is stable: equally frequent ones stay in alphabetical order.
    causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (cause, count) in causes.iter().take(CAUSES) {
        text += &format!("{:width$}    {count} x {cause}\n", "");
    }
    let (more, rest) = causes.iter().skip(CAUSES).fold((0, 0), |(more, rest), (_, count)| (more + 1, rest + count));
    if more > 0 {
        text += &format!("{:width$}    {rest} x {more} other causes; `--all` lists every instance\n", "");
    }
    text
}

/// How many are in each state, those that occur.
fn counts(stages: &[(StageId, &Outlook)]) -> Vec<String> {
    let count = |word: &&str| stages.iter().filter(|(_, outlook)| state(outlook) == *word).count();
    let words = ["cached", "to run", "to look at again after others", "failed", "stuck", "blocked"];
    STATES.iter().map(count).zip(words).filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect()
}

fn total(stages: &[(StageId, &Outlook)]) -> String {
    let count = |words: &[&str]| stages.iter().filter(|(_, outlook)| words.contains(&state(outlook))).count();
    let (cached, run, after) = (count(&["cached"]), count(&["run"]), count(&["after"]));
    let stuck = count(&["failed", "stuck", "blocked"]);
    let mut text = format!("{} stages: {cached} cached, {run} to run, {after} after these", stages.len());
    if stuck > 0 {
        text += &format!(", {stuck} stuck");
    }
    text
}
