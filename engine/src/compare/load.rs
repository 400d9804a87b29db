//! Finds recorded runs by what people call them, and reads them.
//!
//! A run without a summary did not end, or an earlier version recorded it: then its events tell what they can, and that
//! is said. What a later version added is passed over. Unaware of what is compared.
use super::events;
use crate::Failure;
use crate::key::Digest;
use crate::manifest::nearest;
use crate::recording::{EVENTS, RESOLVED, Resolved, ResolvedStage, Row, SUMMARY, Summary};
use crate::store::{FOLDER, Record, file_name};
use crate::sweep::Setting;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A recorded run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Its name.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Name of the experiment.
    pub experiment: String,
    /// What the manifest meant, if that can be read.
    pub resolved: Option<Resolved>,
    /// The stages of the manifest.
    pub bases: BTreeMap<String, ResolvedStage>,
    /// What came of every stage and instance, as far as it is known.
    pub stages: Vec<Row>,
    /// What is not as it should be.
    pub remarks: Vec<String>,
    /// By instance: its stage in the manifest, and what is set in it. Stages that no sweep reaches are absent.
    instances: HashMap<String, (String, Setting)>,
    /// By stage of the manifest: the instance of each setting, and the axes that any of them has.
    settings: HashMap<String, (HashMap<Setting, String>, BTreeSet<u32>)>,
}

impl Run {
    /// A run of these parts.
    pub(super) fn new(id: String, folder: PathBuf, resolved: Option<Resolved>) -> Self {
        let mut run = Self { id, folder, ..Self::default() };
        let Some(resolved) = resolved else { return run };
        run.experiment.clone_from(&resolved.experiment);
        let stage =
            |(name, value): (&String, &Value)| Some((name.clone(), serde_json::from_value(value.clone()).ok()?));
        run.bases = resolved.stages.iter().filter_map(stage).collect();
        for (base, instances) in &resolved.instances {
            let (by_setting, axes) = run.settings.entry(base.clone()).or_default();
            for (name, setting) in instances {
                axes.extend(setting.iter().map(|(axis, _)| *axis));
                by_setting.insert(setting.clone(), name.clone());
                run.instances.insert(name.clone(), (base.clone(), setting.clone()));
            }
        }
        run.resolved = Some(resolved);
        run
    }

    /// The stage of the manifest that an instance is of.
    pub fn base<'a>(&'a self, name: &'a str) -> &'a str {
        self.instances.get(name).map_or(name, |(base, _)| base)
    }

    /// The instance of `from`, a stage of the manifest, that this instance takes.
    pub(super) fn upstream<'a>(&'a self, name: &str, from: &'a str) -> Option<&'a str> {
        let Some((by_setting, axes)) = self.settings.get(from) else { return Some(from) };
        let (_, setting) = self.instances.get(name)?;
        let seen: Setting = setting.iter().copied().filter(|(axis, _)| axes.contains(axis)).collect();
        by_setting.get(&seen).map(String::as_str)
    }
}

/// The folder of a run: `latest` and `previous` (of an experiment), its name, a path, or a part at either end of its name
/// that no other run has.
///
/// # Errors
/// There is no such run, or several.
pub fn find(outputs: &Path, word: &str, experiment: Option<&str>) -> Result<PathBuf, Failure> {
    let runs = outputs.join("runs");
    let mut all = names(&runs)?;
    let path = Path::new(word);
    if let Some(from_newest) = ["latest", "previous"].iter().position(|known| *known == word) {
        all.retain(|id| experiment.is_none_or(|name| of_experiment(id, name)));
        let whose = experiment.map(|name| format!(" of the experiment `{name}`")).unwrap_or_default();
        let there = match all.len() {
            0 => format!("no run{whose}"),
            1 => format!("only one run{whose}"),
            many => format!("{many} runs{whose}"),
        };
        let found = all.iter().rev().nth(from_newest).map(|id| runs.join(id));
        return found.ok_or_else(|| {
            Failure::user(format!("there is no `{word}` run: {} has {there}", runs.display()))
                .hint("`anneal run` records a run whenever it has something to do; --outputs DIR names another folder")
        });
    }
    if all.iter().any(|id| id == word) {
        return Ok(runs.join(word));
    }
    if [RESOLVED, SUMMARY, EVENTS].iter().any(|file| path.join(file).is_file()) {
        return Ok(path.to_owned());
    }
    let part = |id: &&String| !word.is_empty() && (id.starts_with(word) || id.ends_with(word));
    match all.iter().filter(part).collect::<Vec<_>>().as_slice() {
        [one] => Ok(runs.join(one)),
        [] => Err(unknown(&runs, word, &all)),
        several => Err(Failure::user(format!("`{word}` is a part of the names of {} runs", several.len()))
            .hint(format!("say more of it: {}", newest(several.iter().map(|id| id.as_str()))))),
    }
}

/// The newest names of some, which are in order.
fn newest<'a>(names: impl DoubleEndedIterator<Item = &'a str>) -> String {
    names.rev().take(5).collect::<Vec<_>>().join(", ")
}

fn unknown(runs: &Path, word: &str, all: &[String]) -> Failure {
    let failure = Failure::user(format!("there is no run `{word}` in {}", runs.display()));
    match nearest(word, all.iter().map(String::as_str)) {
        Some(near) => failure.hint(format!("did you mean {near}?")),
        None if all.is_empty() => failure.hint("no run is recorded there; --outputs DIR names another outputs folder"),
        None => failure.hint(format!(
            "the newest are {}; `latest` and `previous` are runs too",
            newest(all.iter().map(String::as_str))
        )),
    }
}

/// The names of all runs, the oldest first.
fn names(runs: &Path) -> Result<Vec<String>, Failure> {
    let entries = match std::fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::io("read", runs, &error)),
    };
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Whether a run is of an experiment: its name is a time, the experiment's name and four digits.
fn of_experiment(id: &str, experiment: &str) -> bool {
    let (time, digits) = ("YYYYMMDD-hhmmss-mmm-".len(), "-abcd".len());
    id.len() > time + digits && id.get(time..id.len() - digits) == Some(&file_name(experiment))
}

/// Reads a run.
///
/// # Errors
/// Nothing in the folder can be read.
pub fn load(folder: &Path) -> Result<Run, Failure> {
    let id = std::path::absolute(folder).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let (resolved, why_not) = split(read::<Resolved>(&folder.join(RESOLVED)));
    let mut run = Run::new(id.unwrap_or_default(), folder.to_owned(), resolved);
    if let Some(why) = why_not.clone() {
        run.remarks.push(format!("{why}; its parameters are not compared"));
    }
    match read::<Summary>(&folder.join(SUMMARY)) {
        Ok(Some(summary)) => {
            if run.experiment.is_empty() {
                run.experiment = summary.experiment;
            }
            if summary.interrupted {
                run.remarks.push("it was interrupted".to_owned());
            }
            run.stages = summary.stages;
            return Ok(run);
        }
        Ok(None) => {}
        Err(why) => run.remarks.push(format!("{why}; its events tell what they can")),
    }
    let told = events::read(&folder.join(EVENTS), &run, &|key| record(folder, key));
    let told = match told {
        Ok(told) => told,
        Err(error) if why_not.is_some() => {
            let failure = Failure::user(format!("{} is no run that can be read: {error}", folder.display()));
            return Err(failure.hint("compare other runs; what is damaged here cannot be made again but by running"));
        }
        Err(error) => {
            run.remarks.push(format!("nothing is known of its results: {error}"));
            return Ok(run);
        }
    };
    if run.experiment.is_empty() {
        run.experiment = told.experiment;
    }
    run.remarks.push(if told.ended {
        format!("it has no {SUMMARY}; its events tell what came of it")
    } else {
        "it did not end, or has not yet; what it did until then is compared".to_owned()
    });
    if told.unreadable > 0 {
        run.remarks.push(format!("{} of its events cannot be read", told.unreadable));
    }
    run.stages = told.stages;
    Ok(run)
}

/// What a key's document says, from the store that the run's folder is in.
pub fn document(run: &Run, key: &Digest) -> Option<Value> {
    let read = |kind: &str| read::<Value>(&in_store(&run.folder, kind, key)?).ok().flatten();
    let mut found = read("records").or_else(|| read("failures"))?;
    Some(found.get_mut("document")?.take()).filter(|document| !document.is_null())
}

fn record(folder: &Path, key: &Digest) -> Option<Record> {
    read(&in_store(folder, "records", key)?).ok().flatten()
}

/// A file about a key in the outputs folder that has this run's folder in its `runs`.
fn in_store(folder: &Path, kind: &str, key: &Digest) -> Option<PathBuf> {
    let folder = std::path::absolute(folder).ok()?;
    Some(folder.parent()?.parent()?.join(FOLDER).join(kind).join(format!("{key}.json")))
}

/// A file of JSON; nothing if it is not there.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| format!("its {name} is damaged ({error})")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("its {name} cannot be read ({error})")),
    }
}

/// What there is, or why there is nothing.
fn split<T>(read: Result<Option<T>, String>) -> (Option<T>, Option<String>) {
    match read {
        Ok(Some(value)) => (Some(value), None),
        Ok(None) => (None, Some(format!("it has no {RESOLVED}"))),
        Err(why) => (None, Some(why)),
    }
}
