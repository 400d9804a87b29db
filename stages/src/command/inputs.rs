//! The artifacts that a program reads, before and after: they belong to other stages, and nobody may write to them.
//!
//! Unaware of why a file changed.
use anneal_engine::hash::Stamp;
use anneal_engine::{Failure, StageContext, StageInput};
use std::collections::BTreeMap;
use std::path::Path;

/// Every file of every input with what the system says of it, links followed.
type Stamps = BTreeMap<String, BTreeMap<String, Stamp>>;

/// What lies in the inputs now.
///
/// # Errors
/// A folder or file cannot be read.
pub(super) fn stamps(inputs: &BTreeMap<String, StageInput>) -> Result<Stamps, Failure> {
    let one = |(name, input): (&String, &StageInput)| {
        let mut files = BTreeMap::new();
        walk(&input.dir, "", &mut files)?;
        Ok((name.clone(), files))
    };
    inputs.iter().map(one).collect()
}

fn walk(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Stamp>) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::io("read", folder, &e);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&entry.path(), &format!("{name}/"), files)?;
        } else {
            let stamp = Stamp::of(&entry.path()).map_err(|e| Failure::io("read", &entry.path(), &e))?;
            files.insert(name, stamp);
        }
    }
    Ok(())
}

/// Nobody wrote to an input meanwhile.
///
/// # Errors
/// Somebody did: names the files. What the program made of them is worth nothing.
pub(super) fn unchanged(context: &StageContext<'_>, before: &Stamps) -> Result<(), Failure> {
    for (name, input) in context.inputs {
        let mut after = BTreeMap::new();
        // A file that is gone is a change too, and is found below.
        let _ = walk(&input.dir, "", &mut after);
        let empty = BTreeMap::new();
        let before = before.get(name).unwrap_or(&empty);
        let mut changed: Vec<&str> = before
            .keys()
            .chain(after.keys())
            .filter(|file| before.get(*file) != after.get(*file))
            .map(String::as_str)
            .collect();
        changed.sort_unstable();
        changed.dedup();
        if !changed.is_empty() {
            let (stage, list, dir) = (context.name, changed.join(", "), input.dir.display());
            return Err(Failure::user(format!(
                "stage `{stage}`: its input `{name}` changed while the program ran ({list}), so the result is thrown away"
            ))
            .hint(format!(
                "inputs belong to other stages: let the program write to {{out}} only, and remove {dir}, so that the \
                 next run makes it again"
            )));
        }
    }
    Ok(())
}
