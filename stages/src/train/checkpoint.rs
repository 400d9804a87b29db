//! Checkpoints: everything a training run needs to go on at the very next batch, bit for bit.
//!
//! A checkpoint is a folder `step-N` that appears by rename, so it is whole or absent; older ones go only then.
//! Unaware of models: it stores named f32 tensors and the log. Random state needs no place: order and dropout follow
//! from the step's number.
use crate::tensor_file::{self, FloatType, OutTensor, TensorFile};
use anneal_engine::Failure;
use anneal_engine::failpoint::pass;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// One row of the training log, kept with the artifact; holds nothing that depends on the machine's speed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    /// Counted from 1.
    pub step: u64,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Mean over the labelled tokens of the window; absent in a row of an evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Learning rate of the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Global L2 norm of the gradient before clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Mean over the labelled tokens of the eval split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
}

/// What a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Optimizer steps taken.
    pub step: u64,
    /// The log so far.
    pub log: Vec<LogRow>,
    /// Seconds of training so far, for the record.
    pub seconds: f64,
    /// Parameters and moments by name.
    pub tensors: BTreeMap<String, Vec<f32>>,
}

#[derive(Serialize, Deserialize)]
struct State {
    step: u64,
    seconds: f64,
    log: Vec<LogRow>,
}

/// Writes a checkpoint into `dir` and removes older ones.
///
/// # Errors
/// It cannot be written; older ones then stay.
pub fn write(dir: &Path, snapshot: &Snapshot) -> Result<(), Failure> {
    let target = dir.join(format!("step-{:09}", snapshot.step));
    let unfinished = dir.join("unfinished");
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |e: std::io::Error| Failure::io(action, &path, &e)
    };
    if unfinished.exists() {
        pass("checkpoint-clear").and_then(|()| fs::remove_dir_all(&unfinished)).map_err(io("remove", &unfinished))?;
    }
    pass("checkpoint-folder").and_then(|()| fs::create_dir_all(&unfinished)).map_err(io("create", &unfinished))?;
    let tensors: Vec<_> = snapshot
        .tensors
        .iter()
        .map(|(name, values)| (name.clone(), OutTensor::floats(values, &[values.len()], FloatType::F32)))
        .collect();
    pass("checkpoint-tensors").map_err(io("write", &unfinished))?;
    tensor_file::write(&unfinished.join("state.safetensors"), &tensors)?;
    let state = State { step: snapshot.step, seconds: snapshot.seconds, log: snapshot.log.clone() };
    let text = serde_json::to_vec(&state).map_err(|e| Failure::bug(format!("training state: {e}")))?;
    pass("checkpoint-state")
        .and_then(|()| fs::write(unfinished.join("state.json"), text))
        .map_err(io("write", &unfinished))?;
    for file in ["state.safetensors", "state.json"] {
        let path = unfinished.join(file);
        pass("checkpoint-sync")
            .and_then(|()| File::open(&path))
            .and_then(|f| f.sync_all())
            .map_err(io("sync", &path))?;
    }
    if target.exists() {
        // The same step was written before: its bytes are the same, so either may stay.
        return fs::remove_dir_all(&unfinished).map_err(io("remove", &unfinished));
    }
    pass("checkpoint-rename").and_then(|()| fs::rename(&unfinished, &target)).map_err(io("rename", &unfinished))?;
    pass("checkpoint-renamed").and_then(|()| File::open(dir)).and_then(|f| f.sync_all()).map_err(io("sync", dir))?;
    for (step, path) in list(dir)? {
        if step != snapshot.step {
            pass("checkpoint-remove").and_then(|()| fs::remove_dir_all(&path)).map_err(io("remove", &path))?;
        }
    }
    Ok(())
}

/// The checkpoints of a folder, latest first.
fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Failure> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Failure::io("read", dir, &e))? {
        let path = entry.map_err(|e| Failure::io("read", dir, &e))?.path();
        let step = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("step-"));
        if let Some(step) = step.and_then(|n| n.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// The latest checkpoint that can be read, and why a later one could not.
///
/// # Errors
/// The folder cannot be listed.
pub fn latest(dir: &Path) -> Result<(Option<Snapshot>, Vec<Failure>), Failure> {
    pass("checkpoint-list").map_err(|e| Failure::io("read", dir, &e))?;
    let mut unreadable = Vec::new();
    for (_, path) in list(dir)? {
        match read(&path) {
            Ok(snapshot) => return Ok((Some(snapshot), unreadable)),
            Err(failure) => unreadable.push(failure),
        }
    }
    Ok((None, unreadable))
}

fn read(path: &Path) -> Result<Snapshot, Failure> {
    let state = path.join("state.json");
    let text = pass("checkpoint-read").and_then(|()| fs::read(&state)).map_err(|e| Failure::io("read", &state, &e))?;
    let State { step, seconds, log } = serde_json::from_slice(&text)
        .map_err(|e| Failure::user(format!("{}:{}: damaged checkpoint: {e}", state.display(), e.line())))?;
    let file = TensorFile::open(&path.join("state.safetensors"))?;
    let mut tensors = BTreeMap::new();
    for name in file.names() {
        let shape = file.info(&name).map(|info| info.shape.clone()).unwrap_or_default();
        tensors.insert(name.clone(), file.read_f32(&name, &shape)?);
    }
    Ok(Snapshot { step, log, seconds, tensors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(step: u64) -> Snapshot {
        let tensors = BTreeMap::from([("a".to_owned(), vec![step as f32, f32::MIN_POSITIVE, -0.0])]);
        Snapshot { step, log: Vec::new(), seconds: 1.5, tensors }
    }

    #[test]
    fn the_latest_readable_checkpoint_wins() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(latest(dir.path()).unwrap().0, None);
        write(dir.path(), &snapshot(5)).unwrap();
        write(dir.path(), &snapshot(10)).unwrap();
        assert_eq!(latest(dir.path()).unwrap(), (Some(snapshot(10)), vec![]));
        assert!(!dir.path().join("step-000000005").exists(), "older ones go once the newer is there");
        // A crash while step 15 was being written leaves a folder that nobody takes for a checkpoint.
        fs::create_dir(dir.path().join("unfinished")).unwrap();
        fs::write(dir.path().join("unfinished/state.json"), "{").unwrap();
        assert_eq!(latest(dir.path()).unwrap().0, Some(snapshot(10)));
        // A damaged one is reported and passed over.
        fs::create_dir(dir.path().join("step-000000020")).unwrap();
        fs::write(dir.path().join("step-000000020/state.json"), "{").unwrap();
        let (found, unreadable) = latest(dir.path()).unwrap();
        assert_eq!((found, unreadable.len()), (Some(snapshot(10)), 1));
    }
}
