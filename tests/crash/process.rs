//! Runs of the program: starts drivers, waits for them with patience but not forever, reads what they said.
//!
//! Unaware of what a run means for the store.
use crate::plan::Driver;
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A run that takes longer hangs: the longest takes about a second.
const PATIENCE: Duration = Duration::from_secs(90);

/// How to start the program.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The binary under test.
    pub(crate) path: PathBuf,
    /// Folder with manifest and data, made absolute.
    pub(crate) project: PathBuf,
    /// The manifest's name there.
    pub(crate) manifest: &'static str,
}

/// What a driver said and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Its events.
    pub(crate) events: Vec<Value>,
    /// Its standard error.
    pub(crate) stderr: String,
    /// It did not end.
    pub(crate) hung: bool,
}

impl Said {
    /// The events of one type.
    pub(crate) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["event"]["type"] == kind)
    }

    /// A number of the last event, `run-finished`.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.of("run-finished").last().and_then(|event| event["event"][name].as_u64())
    }
}

/// Runs drivers at the same time on the outputs folder in `dir`; `name` tells their files apart from those of others.
pub(crate) fn run(program: &Program, dir: &Path, name: &str, drivers: &[Driver]) -> std::io::Result<Vec<Said>> {
    let mut running = Vec::new();
    let started = Instant::now();
    for (number, driver) in drivers.iter().enumerate() {
        let out = dir.join(format!("{name}-{number}.out"));
        let err = dir.join(format!("{name}-{number}.err"));
        std::thread::sleep(Duration::from_millis(driver.starts_after));
        let child = Command::new(&program.path)
            .args(["run", program.manifest, "--json", "--outputs"])
            .arg(dir.join("outputs"))
            .current_dir(&program.project)
            .env("ANNEAL_FAILPOINT", &driver.rules)
            .env("ANNEAL_FAILPOINT_LOG", dir.join("passages"))
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .spawn()?;
        running.push((number, child, driver.killed_after, out, err));
    }
    // Whoever is to be killed at a time is looked after first.
    running.sort_by_key(|(_, _, killed_after, ..)| killed_after.unwrap_or(u64::MAX));
    let mut said = Vec::new();
    for (number, mut child, killed_after, out, err) in running {
        let hung = wait(&mut child, started, killed_after)?;
        let code = child.wait()?.code();
        // The last line of a driver that was killed may be cut off.
        let text = fs::read(&out)?;
        let events = text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let stderr = String::from_utf8_lossy(&fs::read(&err)?).into_owned();
        said.push((number, Said { code, events, stderr, hung }));
    }
    said.sort_by_key(|(number, _)| *number);
    Ok(said.into_iter().map(|(_, said)| said).collect())
}

/// Waits for the end, or brings it about; says whether patience ran out.
fn wait(child: &mut Child, started: Instant, killed_after: Option<u64>) -> std::io::Result<bool> {
    let end = killed_after.map_or(PATIENCE, Duration::from_millis);
    while child.try_wait()?.is_none() {
        if started.elapsed() >= end {
            child.kill()?;
            return Ok(killed_after.is_none());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(false)
}
