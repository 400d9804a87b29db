//! The folder of a run: `outputs/runs/<id>/` with the manifest as it was read, what it meant, every event, the log of
//! every worker, and at its end what came of every stage.
//!
//! A record for people, reports and `compare`; no later run depends on it. Unaware of scheduling.
mod resolved;
mod summary;

pub use resolved::{Resolved, ResolvedAxis, ResolvedStage};
pub use summary::{Row, Summary};

use crate::Failure;
use crate::event::{Event, Stamped, Step};
use crate::failpoint::pass;
use crate::graph::Pipeline;
use crate::key::Digest;
use crate::run::RunSummary;
use crate::store::file_name;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What a manifest meant.
pub(crate) const RESOLVED: &str = "resolved.json";
/// What came of every stage.
pub(crate) const SUMMARY: &str = "summary.json";
/// Everything that happened.
pub(crate) const EVENTS: &str = "events.jsonl";

/// A run being recorded.
#[derive(Debug)]
pub struct Recording {
    /// Name of the run: sorts by time.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    events: Option<BufWriter<File>>,
}

impl Recording {
    /// Makes the folder of a new run and writes down what is to be run.
    ///
    /// # Errors
    /// The disk's.
    pub fn start(outputs: &Path, pipeline: &Pipeline) -> Result<Self, Failure> {
        let now = crate::hash::now_nanos();
        let noise = Digest::of(crate::store::unique().as_bytes()).to_string();
        let id = format!("{}-{}-{}", timestamp(now / 1_000_000), file_name(&pipeline.experiment), &noise[..4]);
        let folder = outputs.join("runs").join(&id);
        pass("run-folder")
            .and_then(|()| std::fs::create_dir_all(&folder))
            .map_err(|e| Failure::io("create", &folder, &e))?;
        let write = |name: &str, text: &[u8]| {
            let path = folder.join(name);
            pass("run-file").and_then(|()| std::fs::write(&path, text)).map_err(|e| Failure::io("write", &path, &e))
        };
        let mut text = String::new();
        for argument in &pipeline.overrides {
            text.push_str(&format!("# --set {}\n", argument.replace('\n', " ")));
        }
        text.push_str(&pipeline.text);
        write("manifest.toml", text.as_bytes())?;
        let path = folder.join(RESOLVED);
        let written = pass("run-file").and_then(|()| File::create(&path)).map(BufWriter::new).and_then(|mut out| {
            resolved::write(pipeline, &mut out)?;
            out.flush()
        });
        written.map_err(|e| Failure::io("write", &path, &e))?;
        let path = folder.join(EVENTS);
        let events =
            pass("events-create").and_then(|()| File::create(&path)).map_err(|e| Failure::io("create", &path, &e))?;
        Ok(Self { id, folder, events: Some(BufWriter::new(events)) })
    }

    /// Appends an event. After a failure nothing more is recorded; the run goes on.
    ///
    /// # Errors
    /// The disk's, once.
    pub fn write(&mut self, event: &Stamped) -> Result<(), Failure> {
        self.with(|file| {
            pass("events-write")?;
            serde_json::to_writer(&mut *file, event)?;
            file.write_all(b"\n")
        })
    }

    /// Hands what was written to the system.
    ///
    /// # Errors
    /// As [`Recording::write`].
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.with(|file| pass("events-flush").and_then(|()| file.flush()))
    }

    /// Writes down what came of every stage, in one step: the file is whole or not there.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(&self, pipeline: &Pipeline, summary: &RunSummary) -> Result<(), Failure> {
        let (fresh, path) = (self.folder.join(format!(".{SUMMARY}")), self.folder.join(SUMMARY));
        let written = pass("run-file").and_then(|()| File::create(&fresh)).map(BufWriter::new).and_then(|mut out| {
            summary::write(pipeline, summary, &mut out)?;
            out.into_inner()?.sync_all()?;
            std::fs::rename(&fresh, &path)
        });
        written.map_err(|e| {
            let _ = std::fs::remove_file(&fresh);
            Failure::io("write", &path, &e)
        })
    }

    fn with(&mut self, action: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<(), Failure> {
        let Some(file) = &mut self.events else { return Ok(()) };
        action(file).map_err(|e| {
            // Dropping the writer would try the same bytes again; its parts are simply let go.
            drop(self.events.take().map(BufWriter::into_parts));
            Failure::io("write", &self.folder.join(EVENTS), &e)
        })
    }

    /// Where a stage's worker writes its standard error.
    pub fn log(&self, stage: &str) -> PathBuf {
        self.folder.join(format!("{}.log", file_name(stage)))
    }
}

/// The training steps of stages, by key, from every recorded run. A stage that was resumed has its steps in several
/// runs; the latest of a step counts.
pub fn steps(outputs: &Path, keys: &[Digest]) -> HashMap<Digest, Vec<Step>> {
    let wanted: HashMap<String, Digest> = keys.iter().map(|key| (key.to_string(), *key)).collect();
    let mut found: HashMap<Digest, BTreeMap<u64, Step>> = HashMap::new();
    let entries = std::fs::read_dir(outputs.join("runs")).into_iter().flatten().flatten();
    let mut runs: Vec<PathBuf> = entries.map(|entry| entry.path().join(EVENTS)).collect();
    runs.sort();
    for path in runs {
        let Ok(file) = File::open(path) else { continue };
        let mut running: HashMap<String, Digest> = HashMap::new();
        // A line that was cut off by a crash is skipped.
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            let Ok(Stamped { stage: Some(stage), event, .. }) = serde_json::from_str(&line) else { continue };
            match event {
                Event::StageStarted { key, .. } => {
                    wanted.get(&key).map(|key| running.insert(stage, *key));
                }
                Event::Step(step) => {
                    if let Some(key) = running.get(&stage) {
                        found.entry(*key).or_default().insert(step.step, step);
                    }
                }
                _ => {}
            }
        }
    }
    found.into_iter().map(|(key, steps)| (key, steps.into_values().collect())).collect()
}

/// Milliseconds since the Unix epoch as `YYYYMMDD-hhmmss-mmm`, UTC.
fn timestamp(millis: i64) -> String {
    let (days, rest) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    // Count in eras of 400 years that begin on a first of March, so that the leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let (year, seconds) = (year + era * 400, rest / 1000);
    let (h, m, s, ms) = (seconds / 3600, seconds / 60 % 60, seconds % 60, rest % 1000);
    format!("{year:04}{month:02}{day:02}-{h:02}{m:02}{s:02}-{ms:03}")
}

#[cfg(test)]
mod tests {
    use super::timestamp;

    #[test]
    fn times_are_calendar_times() {
        assert_eq!(timestamp(0), "19700101-000000-000");
        assert_eq!(timestamp(951_782_400_000), "20000229-000000-000");
        assert_eq!(timestamp(951_868_799_999), "20000229-235959-999");
        assert_eq!(timestamp(1_795_459_380_123), "20261123-184300-123");
        assert_eq!(timestamp(4_107_542_400_000), "21000301-000000-000");
    }
}
