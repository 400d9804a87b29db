//! Plays one schedule and says what was violated: rounds with failpoints, a look after each, a run without any that
//! must mend everything by itself, and a last one that must find nothing to do.
//!
//! Unaware of how schedules are made and of other schedules.
use crate::inspect::{checkpoints, inspect, is_free, rubbish};
use crate::plan::{Driver, Schedule};
use crate::process::{Said, run};
use crate::world::{Pipeline, field};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Seconds that an event may come later than what it tells of, on a machine with other work.
const SLACK: f64 = 0.5;

/// What came of a schedule.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Violations.
    pub(crate) wrong: Vec<String>,
    /// How often each point was passed, and how often something happened there.
    pub(crate) points: BTreeMap<String, (u64, u64)>,
    /// A training stage went on from a checkpoint.
    pub(crate) resumed: bool,
}

/// What is known of a store while a schedule is played.
struct Case<'a> {
    pipeline: &'a Pipeline,
    dir: &'a Path,
    damaged: BTreeSet<String>,
    /// Records that must stay as they are.
    durable: BTreeMap<String, Vec<u8>>,
    /// Keys whose result was damaged at first: they are executed again.
    excused: BTreeSet<String>,
    said: Vec<Said>,
    verdict: Verdict,
}

/// Plays a schedule in an empty folder.
pub(crate) fn play(pipeline: &Pipeline, schedule: &Schedule, dir: &Path) -> std::io::Result<Verdict> {
    let damaged = pipeline.begin(&dir.join("outputs"), schedule.start, schedule.index)?;
    let spoiled = |(key, output): (&String, &String)| damaged.contains(output).then(|| key.clone());
    let excused = pipeline.outputs.iter().filter_map(spoiled).collect();
    let verdict = Verdict::default();
    let mut case = Case { pipeline, dir, damaged, durable: BTreeMap::new(), excused, said: Vec::new(), verdict };
    case.look("the beginning");
    for (number, drivers) in schedule.rounds.iter().enumerate() {
        let said = run(&pipeline.program, dir, &format!("round-{number}"), drivers)?;
        for (said, driver) in said.iter().zip(drivers) {
            // What happens to others must not fail a run that nothing happens to.
            if driver.is_undisturbed() && said.code != Some(0) {
                case.failed("a run beside others", said);
            }
        }
        case.said.extend(said);
        case.look(&format!("round {number}"));
    }
    case.mend()?;
    case.prove()?;
    case.executions();
    case.passages();
    Ok(case.verdict)
}

impl Case<'_> {
    fn wrong(&mut self, what: impl Into<String>) {
        self.verdict.wrong.push(what.into());
    }

    /// Checks everything visible, and that no result was lost or made again.
    fn look(&mut self, when: &str) {
        let outputs = self.dir.join("outputs");
        // Mended trees count from now on.
        let found = inspect(&outputs, &BTreeSet::new());
        self.damaged.retain(|tree| found.wrong.iter().any(|wrong| wrong.contains(tree.as_str())));
        let found = inspect(&outputs, &self.damaged);
        for wrong in found.wrong {
            self.wrong(format!("after {when}: {wrong}"));
        }
        let lost: Vec<String> = (self.durable.iter())
            .filter(|(key, record)| found.records.get(*key) != Some(record))
            .map(|(key, _)| format!("after {when}: the finished result of {key} was lost or made again"))
            .collect();
        self.verdict.wrong.extend(lost);
        for (key, record) in found.records {
            if self.pipeline.outputs.get(&key).is_some_and(|output| *output != field(&record, "output")) {
                self.wrong(format!("after {when}: {key} has another output than in an undisturbed run"));
            }
            // An orphan may still be about to write the record of a result that it mended.
            let settled = !self.excused.contains(&key)
                || (!self.damaged.contains(&field(&record, "output")) && is_free(&outputs, &key));
            if settled {
                self.durable.insert(key, record);
            }
        }
    }

    /// A run without failpoints: it must end well, repeat nothing, and go on from checkpoints.
    fn mend(&mut self) -> std::io::Result<()> {
        let outputs = self.dir.join("outputs");
        let waiting: Vec<(String, u64)> = checkpoints(&outputs)
            .into_iter()
            .filter_map(|(key, step)| Some((key, step?)))
            .filter(|(key, _)| !self.durable.contains_key(key) && !self.excused.contains(key) && is_free(&outputs, key))
            .collect();
        let durable: BTreeSet<String> = self.durable.keys().cloned().collect();
        let quiet = self.pipeline.outputs.keys().all(|key| is_free(&outputs, key));
        let said = self.undisturbed("mending")?;
        if said.code != Some(0) {
            self.failed("the run that mends", &said);
        }
        for key in said.of("stage-started").filter_map(|event| event["event"]["key"].as_str()) {
            if durable.contains(key) {
                self.wrong(format!("{key} was executed although its result existed"));
            }
        }
        for (key, step) in waiting {
            let resumed = said.of("checkpoint").find(|event| event["event"]["resumed"] == true);
            match resumed.map(|event| event["event"]["step"].as_u64()) {
                Some(from) if from == Some(step) => self.verdict.resumed = true,
                other => self.wrong(format!("{key} has a checkpoint of step {step} but went on from {other:?}")),
            }
        }
        // An orphan of an earlier round may have been killed under the eyes of this run, after it swept.
        if quiet {
            self.clean("mending");
        }
        self.said.push(said);
        self.damaged.clear();
        self.look("mending");
        Ok(())
    }

    /// One more run: nothing is left to do.
    fn prove(&mut self) -> std::io::Result<()> {
        let said = self.undisturbed("proof")?;
        let stages = self.pipeline.outputs.len() as u64;
        let counts = ["executed", "cached", "failed", "skipped"].map(|name| said.count(name));
        if (said.code, counts) != (Some(0), [Some(0), Some(stages), Some(0), Some(0)]) {
            self.wrong(format!("the last run ends with {:?}, {counts:?} {}", said.code, said.stderr));
        }
        self.said.push(said);
        self.look("the last run");
        self.clean("the last run");
        let missing: Vec<&String> =
            (self.pipeline.outputs.keys()).filter(|key| !self.durable.contains_key(*key)).collect();
        if !missing.is_empty() || self.durable.len() != self.pipeline.outputs.len() {
            let what = format!("{} records in the end; missing are {missing:?}", self.durable.len());
            self.wrong(what);
        }
        let latest = self.dir.join("outputs/latest");
        let experiments = fs::read_dir(latest)?.flatten().map(|entry| entry.path());
        let names: Vec<String> = experiments
            .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != ".state" && name != ".manifest")
            .collect();
        if names.len() as u64 != stages + 1 || names.iter().any(|name| name.starts_with('.')) {
            self.wrong(format!("latest holds {names:?}"));
        }
        Ok(())
    }

    fn failed(&mut self, what: &str, said: &Said) {
        let told: Vec<String> = said.of("stage-failed").map(|event| event["event"].to_string()).collect();
        self.wrong(format!("{what} ends with {:?}: {told:?} {}", said.code, said.stderr));
    }

    fn undisturbed(&self, name: &str) -> std::io::Result<Said> {
        let driver = Driver::default();
        Ok(run(&self.pipeline.program, self.dir, name, &[driver])?.pop().unwrap_or_default())
    }

    /// No rubbish is left.
    fn clean(&mut self, when: &str) {
        let outputs = self.dir.join("outputs");
        let left = rubbish(&outputs);
        if !left.is_empty() {
            self.wrong(format!("after {when}: tmp holds {left:?}"));
        }
        let left: Vec<String> = checkpoints(&outputs).into_keys().collect();
        if !left.is_empty() {
            self.wrong(format!("after {when}: checkpoints are left of {left:?}"));
        }
    }

    /// Over all runs: nobody began what somebody else had finished, nobody hung, nobody panicked.
    fn executions(&mut self) {
        let mut wrong = Vec::new();
        let finished = self.said.iter().flat_map(|said| said.of("stage-finished"));
        let mut seen = BTreeSet::new();
        for key in finished.filter_map(|event| event["event"]["key"].as_str()) {
            if !seen.insert(key) && !self.excused.contains(key) {
                wrong.push(format!("{key} was executed to the end twice"));
            }
        }
        for said in &self.said {
            if said.hung {
                wrong.push("a run did not end".to_owned());
            }
            if said.stderr.contains("panicked") {
                wrong.push(format!("a panic: {}", said.stderr));
            }
            for event in said.of("stage-started") {
                let Some(key) = event["event"]["key"].as_str() else { continue };
                let Some(record) = self.durable.get(key).filter(|_| !self.excused.contains(key)) else { continue };
                let record: Value = serde_json::from_slice(record).unwrap_or_default();
                let (began, finished) = (event["time"].as_f64(), record["finished"].as_f64());
                let again = began.zip(finished).is_some_and(|(began, finished)| began > finished + SLACK);
                if again && event["event"]["pid"] != record["pid"] {
                    wrong.push(format!("{key} began again after its result existed"));
                }
            }
        }
        let runs = fs::read_dir(self.dir.join("outputs/runs")).into_iter().flatten().flatten();
        for log in runs.flat_map(|run| fs::read_dir(run.path()).into_iter().flatten().flatten()) {
            let path = log.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                if text.contains("panicked") {
                    wrong.push(format!("a worker's panic: {text}"));
                }
            }
        }
        self.verdict.wrong.append(&mut wrong);
    }

    /// Counts what was passed and where something happened.
    fn passages(&mut self) {
        let text = fs::read_to_string(self.dir.join("passages")).unwrap_or_default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let Some(name) = words.get(2) {
                let (passed, hit) = self.verdict.points.entry((*name).to_owned()).or_default();
                *passed += 1;
                *hit += u64::from(words.len() > 3);
            }
        }
    }
}
