//! Looks at an outputs folder from outside and says what is wrong with it. Knows the layout of the store and the
//! encoding of a tree's digest from their description alone and shares no code with the store.
//!
//! Unaware of schedules.
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a store held.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The bytes of every record, by key.
    pub(crate) records: BTreeMap<String, Vec<u8>>,
    /// What is wrong.
    pub(crate) wrong: Vec<String>,
}

/// The paths in a folder of the store, by name.
fn entries(folder: &Path) -> BTreeMap<String, PathBuf> {
    let list = fs::read_dir(folder).into_iter().flatten().flatten();
    list.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
}

/// Names in `tmp/`.
pub(crate) fn rubbish(outputs: &Path) -> Vec<String> {
    entries(&outputs.join("objects-v1/tmp")).into_keys().collect()
}

/// Keys that have a folder of checkpoints, with the latest step of each.
pub(crate) fn checkpoints(outputs: &Path) -> BTreeMap<String, Option<u64>> {
    let step = |name: &String| name.strip_prefix("step-").and_then(|step| step.parse::<u64>().ok());
    let latest = |path: &PathBuf| entries(path).keys().filter_map(step).max();
    entries(&outputs.join("objects-v1/checkpoints")).iter().map(|(key, path)| (key.clone(), latest(path))).collect()
}

/// Whether nobody works on a key.
pub(crate) fn is_free(outputs: &Path, key: &str) -> bool {
    let lock = outputs.join("objects-v1/locks").join(format!("{key}.lock"));
    // The lock ends with the file, at the end of this function.
    fs::File::open(lock).map_or(true, |file| file.try_lock().is_ok())
}

/// Checks everything visible. `damaged` are trees that are known to be damaged and not mended yet.
pub(crate) fn inspect(outputs: &Path, damaged: &BTreeSet<String>) -> Found {
    let base = outputs.join("objects-v1");
    let mut found = Found::default();
    // Records first: each promises a tree, which must then be there.
    for (name, path) in entries(&base.join("records")) {
        match fs::read(&path).map_err(|e| e.to_string()).and_then(|bytes| check_record(&base, &name, &bytes, damaged)) {
            Ok((key, bytes)) => drop(found.records.insert(key, bytes)),
            Err(why) => found.wrong.push(format!("record {name}: {why}")),
        }
    }
    for (name, path) in entries(&base.join("trees")) {
        if !damaged.contains(&name) {
            match digest(&path) {
                Ok(is) if is == name => {}
                Ok(is) => found.wrong.push(format!("tree {name} has the bytes of {is}")),
                Err(why) => found.wrong.push(format!("tree {name}: {why}")),
            }
        }
    }
    for (experiment, folder) in entries(&outputs.join("latest")) {
        for (stage, path) in entries(&folder) {
            // One digest that spares a run without work the reading of the rest; and whose results these are.
            if stage == ".state" || stage == ".manifest" {
                continue;
            }
            if stage == "keys.json" {
                let read = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
                if read.is_none() {
                    found.wrong.push(format!("latest/{experiment}/keys.json cannot be read"));
                }
            } else if !path.is_dir() {
                found.wrong.push(format!("latest/{experiment}/{stage} leads nowhere"));
            }
        }
    }
    found
}

fn check_record(
    base: &Path,
    name: &str,
    bytes: &[u8],
    damaged: &BTreeSet<String>,
) -> Result<(String, Vec<u8>), String> {
    let record: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("a field is missing");
    let (key, output) = (text(&record["key"])?, text(&record["output"])?);
    if name != format!("{key}.json") {
        return Err(format!("it is of {key}"));
    }
    let tree = base.join("trees").join(&output);
    for file in
        record["files"].as_array().ok_or("it has no list of files")?.iter().filter(|_| !damaged.contains(&output))
    {
        let path = tree.join(text(&file["name"])?);
        let content = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let same = Some(content.len() as u64) == file["size"].as_u64()
            && Some(blake3::hash(&content).to_hex().as_str()) == file["digest"].as_str();
        if !same {
            return Err(format!("{} has other bytes", path.display()));
        }
    }
    Ok((key, bytes.to_vec()))
}

/// The digest of a folder: count of files, then of each, sorted by name: length of name, name, size, BLAKE3.
fn digest(tree: &Path) -> Result<String, String> {
    let mut files = Vec::new();
    list(tree, "", &mut files)?;
    files.sort();
    let mut hasher = blake3::Hasher::new_derive_key("anneal 2026 artifact tree v1");
    hasher.update(&(files.len() as u64).to_le_bytes());
    for (name, size, digest) in files {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(&size.to_le_bytes());
        hasher.update(&digest);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn list(folder: &Path, prefix: &str, files: &mut Vec<(String, u64, [u8; 32])>) -> Result<(), String> {
    for entry in fs::read_dir(folder).map_err(|e| e.to_string())? {
        let path = entry.map_err(|e| e.to_string())?.path();
        let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            list(&path, &format!("{name}/"), files)?;
        } else {
            let content = fs::read(&path).map_err(|e| format!("{name}: {e}"))?;
            files.push((name, content.len() as u64, *blake3::hash(&content).as_bytes()));
        }
    }
    Ok(())
}
