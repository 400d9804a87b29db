//! What a program wrote becomes the artifact: declared files and folders, or everything.
//!
//! Only plain files may be in an artifact: links are replaced by what they lead to if that is in it too. Unaware of
//! digests.
use super::problem;
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, StageContext};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

/// Names of files that are told in a message.
const TOLD: usize = 20;

/// What is wrong with declared outputs.
pub(super) fn check(outputs: &[String]) -> Vec<Problem> {
    let mut found = Vec::new();
    let hint = "name files, or folders with a `/` at the end, by their paths below {out}";
    for (i, output) in outputs.iter().enumerate() {
        let plain = output.strip_suffix('/').unwrap_or(output);
        let parts_fine = Path::new(plain).components().all(|part| matches!(part, Component::Normal(_)));
        if plain.is_empty()
            || plain.contains(['\0', '\n'])
            || !parts_fine
            || plain.split('/').any(|part| matches!(part, "" | "."))
        {
            found.push(problem("outputs", &format!("an output cannot be `{}`", output.escape_debug()), hint));
            continue;
        }
        let inside = |other: &String| {
            let other = other.trim_end_matches('/');
            plain == other || plain.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
        };
        let others = outputs
            .iter()
            .enumerate()
            .filter(|(j, _)| *j != i)
            .find(|(j, other)| inside(other) && (plain != other.trim_end_matches('/') || *j < i));
        if let Some((_, other)) = others {
            let message = format!("output `{output}` is named twice: `{other}` has it in it");
            found.push(problem("outputs", &message, "take one of them away"));
        }
    }
    found
}

/// Makes the output folder what the artifact shall be. Returns what was written but not declared.
///
/// # Errors
/// A declared output is missing; something was written that no artifact can have; the disk's.
pub(super) fn take(context: &StageContext<'_>, outputs: Option<&[String]>) -> Result<Vec<String>, Failure> {
    let mut left = Vec::new();
    if let Some(outputs) = outputs {
        let written = context.launch.scratch.join("written");
        std::fs::rename(context.out, &written).map_err(|e| Failure::io("move", context.out, &e))?;
        std::fs::create_dir(context.out).map_err(|e| Failure::io("create", context.out, &e))?;
        missing(context.name, &written, outputs)?;
        for output in outputs {
            let (from, to) = (written.join(plain(output)), context.out.join(plain(output)));
            to.parent()
                .map_or(Ok(()), std::fs::create_dir_all)
                .and_then(|()| std::fs::rename(&from, &to))
                .map_err(|e| Failure::io("move", &from, &e))?;
        }
        left = names(&written);
    }
    let root = context.out.canonicalize().map_err(|e| Failure::io("read", context.out, &e))?;
    settle(context.name, &root, &root)?;
    Ok(left)
}

fn plain(output: &str) -> &str {
    output.trim_end_matches('/')
}

/// Every declared output must be there, and be what was declared.
fn missing(stage: &str, written: &Path, outputs: &[String]) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    for output in outputs {
        let folder = output.ends_with('/');
        match std::fs::symlink_metadata(written.join(plain(output))) {
            Ok(meta) if meta.is_dir() && !folder => wrong.push(format!("`{output}` is a folder (declare `{output}/`)")),
            Ok(meta) if !meta.is_dir() && folder => {
                wrong.push(format!("`{output}` is no folder (declare `{}`)", plain(output)))
            }
            Ok(_) => {}
            Err(_) => wrong.push(format!("`{output}` was not written")),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let found = names(written);
    let wrote = if found.is_empty() { "it wrote nothing".to_owned() } else { format!("it wrote {}", found.join(", ")) };
    Err(Failure::user(format!("stage `{stage}`: of its outputs, {}", wrong.join(", ")))
        .hint(format!("{wrote}; programs write to the folder that `{{out}}` and $ANNEAL_OUT name")))
}

/// The files below a folder, sorted, the first of them.
fn names(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    if found.len() > TOLD {
        let more = found.len() - TOLD;
        found.truncate(TOLD);
        found.push(format!("{more} more"));
    }
    found
}

/// Sees that there are only files, each with bytes of its own.
fn settle(stage: &str, root: &Path, folder: &Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::io("read", folder, &e);
    let refused = |path: &Path, what: &str| {
        let name = path.strip_prefix(root).unwrap_or(path).display();
        Failure::user(format!("stage `{stage}`: its output {name} {what}"))
    };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if entry.file_name().to_str().is_none() {
            return Err(refused(&path, "has a name that is not UTF-8").hint("give it another name"));
        }
        let meta = entry.metadata().map_err(failed)?;
        if meta.is_dir() {
            settle(stage, root, &path)?;
        } else if meta.is_symlink() {
            let target = path.canonicalize().ok().filter(|target| target.starts_with(root) && target.is_file());
            let target = target.ok_or_else(|| {
                let leads = std::fs::read_link(&path).unwrap_or_default();
                refused(&path, &format!("is a link to {}, which is no file of the artifact", leads.display()))
                    .hint("let the program write a copy (`cp -L`)")
            })?;
            replace(&target, &path)?;
        } else if !meta.is_file() {
            return Err(refused(&path, "is neither a file nor a folder").hint("let the program write files only"));
        } else if meta.nlink() > 1 {
            // Published, a file becomes read-only under all its names; the others may be the user's.
            replace(&path, &path)?;
        }
    }
    Ok(())
}

/// Puts a copy of a file in the place of a link to it.
fn replace(target: &Path, link: &Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::io("copy", target, &e);
    let mut name = link.file_name().unwrap_or_default().to_owned();
    name.push(".anneal-copy");
    let copy = link.with_file_name(name);
    std::fs::copy(target, &copy).and_then(|_| std::fs::rename(&copy, link)).map_err(failed)
}
