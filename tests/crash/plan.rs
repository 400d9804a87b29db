//! Random schedules: which pipeline runs, which failpoints strike in which round, who runs at the same time.
//!
//! A schedule follows from seed and index alone. Every point is the main one of as many schedules as any other, with
//! what it needs to be passed at all. Unaware of processes and of how a store is checked.
use crate::random::Random;
use anneal_engine::failpoint::POINTS;

/// Which stages a schedule runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Stages in the driver and in workers, none of which trains.
    Light,
    /// A training stage with checkpoints and what comes after it; what it needs was made before.
    Train,
}

/// What lies in the outputs folder at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Nothing for the stages of this work.
    Fresh,
    /// All results, one of them damaged.
    Damaged,
    /// All results but no index.
    NoIndex,
}

/// One driver of a round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Driver {
    /// `ANNEAL_FAILPOINT`.
    pub(crate) rules: String,
    /// It starts so many milliseconds after the one before it.
    pub(crate) starts_after: u64,
    /// It is killed from outside after so many milliseconds.
    pub(crate) killed_after: Option<u64>,
}

impl Driver {
    /// Nothing happens to it.
    pub(crate) fn is_undisturbed(&self) -> bool {
        self.rules.is_empty() && self.killed_after.is_none()
    }
}

/// A schedule: rounds of one or two drivers at once. An undisturbed run comes after the last round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) index: u64,
    pub(crate) work: Work,
    pub(crate) start: Start,
    pub(crate) rounds: Vec<Vec<Driver>>,
}

const ACTIONS: [&str; 10] = ["kill", "kill", "kill", "kill", "kill-all", "kill-all", "enospc", "eio", "eio", "eacces"];

/// All names, with their areas.
pub(crate) fn points() -> Vec<(&'static str, &'static str)> {
    POINTS.iter().flat_map(|area| area.points.iter().map(|(name, _)| (area.name, *name))).collect()
}

fn rule(random: &mut Random, name: &str, aimed: bool) -> String {
    // The rule of a main point must strike more often than not.
    let who = if aimed && random.percent(80) { "" } else { random.pick(&["", "driver:", "worker:"]) };
    let passage = if random.percent(if aimed { 65 } else { 40 }) { 1 } else { 1 + random.below(12) };
    format!("{who}{name}@{passage}={}", random.pick(&ACTIONS))
}

/// What must happen in the round of a point so that it is passed: rules before its own.
fn cause(random: &mut Random, area: &str, name: &str) -> Option<String> {
    let failing = ["file-synced", "tree-synced", "record-create", "checkpoints-make", "job-read"];
    match (area, name) {
        ("failure", "failure-read") => None,
        ("failure", _) => Some(format!("{}={}", random.pick(&failing), random.pick(&["eio", "enospc", "eacces"]))),
        _ => None,
    }
}

/// What must have happened in the round before that of a point.
fn earlier(random: &mut Random, name: &str) -> Option<String> {
    let kills = ["kill", "kill-all"];
    let left = match name {
        "sweep-remove" | "sweep-removed" => &["workspace-made", "file-hashed", "record-synced", "job-written"][..],
        "sweep-checkpoints" => &["checkpoints-remove", "records-synced"],
        "checkpoint-clear" => &["checkpoint-tensors", "checkpoint-state", "checkpoint-sync"],
        "checkpoint-read" => &["checkpoint-renamed", "checkpoint-remove"],
        _ => return None,
    };
    Some(format!("{}={}", random.pick(left), random.pick(&kills)))
}

/// Makes a schedule.
pub(crate) fn schedule(seed: u64, index: u64) -> Schedule {
    let mut random = Random::new(seed, index);
    let random = &mut random;
    let all = points();
    let (area, name) = all[((index + seed % 1000) % all.len() as u64) as usize];
    let training = area == "checkpoint" || name == "sweep-checkpoints" || random.percent(20);
    let work = if training && name != "reference-link" && area != "source" { Work::Train } else { Work::Light };
    let start = match name {
        "tree-exchange" => Start::Damaged,
        "index-rebuild" => Start::NoIndex,
        _ if random.percent(5) => Start::Damaged,
        _ if random.percent(5) => Start::NoIndex,
        _ => Start::Fresh,
    };
    let mut rounds = Vec::new();
    let before = earlier(random, name).or_else(|| {
        let (_, other) = random.pick(&all);
        random.percent(25).then(|| rule(random, other, false))
    });
    if let Some(rules) = before {
        rounds.push(vec![Driver { rules, ..Driver::default() }]);
    }
    let mut rules: Vec<String> = cause(random, area, name).into_iter().collect();
    rules.push(rule(random, name, true));
    if random.percent(35) {
        let (_, other) = random.pick(&all);
        rules.push(rule(random, other, false));
    }
    let mut drivers = vec![Driver { rules: rules.join(";"), ..Driver::default() }];
    if random.percent(30) {
        let (_, other) = random.pick(&all);
        let rules = if random.percent(60) { String::new() } else { rule(random, other, false) };
        let starts_after = if random.percent(40) { 0 } else { random.below(60) };
        let killed_after = random.percent(35).then(|| starts_after + random.below(40));
        drivers.push(Driver { rules, starts_after, killed_after });
        // Two that nothing happens to: each must end well, and no stage may be executed by both.
        if random.percent(30) {
            drivers[0].rules.clear();
        }
    }
    rounds.push(drivers);
    if random.percent(12) {
        let (_, other) = random.pick(&all);
        rounds.push(vec![Driver { rules: rule(random, other, false), ..Driver::default() }]);
    }
    Schedule { index, work, start, rounds }
}
