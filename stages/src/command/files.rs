//! The files of the project that a command reads: found before anything runs, and laid out for the program.
//!
//! They are copied, not linked: a program that finds its own file by following links would read its neighbours too, and
//! nobody would notice that they were not declared. Unaware of keys.
use super::problem;
use anneal_engine::hash::Stamp;
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, Source};
use std::path::{Component, Path, PathBuf};

/// More files than anybody means to name; `files = ["."]` would find the store too.
const MOST: usize = 10_000;
/// Folders inside folders; more are a circle.
const DEEPEST: usize = 40;
/// Larger files are linked: a copy of a model for every run would fill the disk.
const COPIED: u64 = 16 << 20;

/// All files below these paths, by their paths relative to the root, sorted.
///
/// # Errors
/// What is missing, unreadable or outside the root.
pub(super) fn list(root: &Path, paths: &[PathBuf]) -> Result<Vec<Source>, Vec<Problem>> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for path in paths {
        let Some(name) = below(root, path) else {
            let message = format!("{} lies outside the project root {}", path.display(), root.display());
            wrong.push(problem("files", &message, "link it into the project, or take it in through an input"));
            continue;
        };
        if let Err(problem) = collect(path, &name, 0, &mut found) {
            wrong.push(problem);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    if wrong.is_empty() { Ok(found) } else { Err(wrong) }
}

/// The path relative to the root, with `/` between its parts; `None` if it does not lie below the root.
fn below(root: &Path, path: &Path) -> Option<String> {
    let (root, path) = (plain(root), plain(path));
    let inside = match path.strip_prefix(&root) {
        Ok(inside) => inside.to_owned(),
        // `--set` starts at the current folder, which may be the root by another name.
        Err(_) => {
            let folder = path.parent()?.canonicalize().ok()?;
            folder.strip_prefix(root.canonicalize().ok()?).ok()?.join(path.file_name()?)
        }
    };
    let parts: Option<Vec<&str>> = inside.components().map(|part| part.as_os_str().to_str()).collect();
    Some(parts?.join("/"))
}

/// Without `.` and `..`, as it is written: links are not looked up.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

fn collect(path: &Path, name: &str, depth: usize, found: &mut Vec<Source>) -> Result<(), Problem> {
    let failed = |e: std::io::Error| Problem {
        missing_file: e.kind() == std::io::ErrorKind::NotFound,
        ..problem("files", &format!("cannot read {}: {e}", path.display()), "paths start at the project root")
    };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.is_file() {
        found.push(Source { name: name.to_owned(), path: path.to_owned(), stamp: Some(Stamp::from(&meta)) });
        if found.len() > MOST {
            let message = format!("`files` names more than {MOST} files");
            return Err(problem("files", &message, "name only what the program reads"));
        }
        return Ok(());
    }
    if !meta.is_dir() {
        let message = format!("{} is neither a file nor a folder", path.display());
        return Err(problem("files", &message, "name files and folders only"));
    }
    if depth > DEEPEST {
        let message = format!("{} lies {DEEPEST} folders deep", path.display());
        return Err(problem("files", &message, "is there a link that leads back?"));
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.file_name();
        let Some(part) = entry.to_str() else {
            let message = format!("the name of {} is not UTF-8", path.join(&entry).display());
            return Err(problem("files", &message, "rename it"));
        };
        // What Python leaves beside a module that it has read; never read without the module.
        if part != "__pycache__" {
            let inside = if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
            collect(&path.join(part), &inside, depth + 1, found)?;
        }
    }
    Ok(())
}

/// A program with a relative path that is none of the files.
pub(super) fn undeclared(program: &str, files: &[Source]) -> Option<Problem> {
    if !program.contains('/') || program.starts_with('/') || program.contains('{') {
        return None;
    }
    let name: Vec<&str> = program.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let name = name.join("/");
    let known = files.iter().any(|file| file.name == name);
    let hint = format!("add it: `files = [\"{name}\"]`; a path without `/` is looked for in PATH");
    (!known).then(|| problem("command", &format!("the program `{program}` is not among `files`"), &hint))
}

/// Puts the files where the program finds them by their relative paths.
///
/// # Errors
/// The disk's.
pub(super) fn lay(work: &Path, files: &[(Source, String)]) -> Result<(), Failure> {
    let mut made = None;
    for (file, _) in files {
        let target = work.join(&file.name);
        let folder = target.parent().unwrap_or(work);
        if made.as_deref() != Some(folder) {
            std::fs::create_dir_all(folder).map_err(|e| Failure::io("create", folder, &e))?;
            made = Some(folder.to_owned());
        }
        let size = std::fs::metadata(&file.path).map_err(|e| Failure::io("read", &file.path, &e))?.len();
        let put = if size > COPIED {
            std::os::unix::fs::symlink(&file.path, &target)
        } else {
            std::fs::copy(&file.path, &target).map(drop)
        };
        put.map_err(|e| Failure::io("copy", &file.path, &e))?;
    }
    Ok(())
}
