//! A manifest's bytes: reading them whatever they are, and the folder that its relative paths start from.
//!
//! Unaware of TOML.
use crate::diagnostic::{Diagnostic, Place, SourceText};
use crate::manifest::words::nearest;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Nobody writes a longer one; without a limit, a device file would never end.
const LARGEST: u64 = 4 << 20;

/// The text of a manifest.
pub(super) fn read(file: &Path, name: &str) -> Result<String, Diagnostic> {
    let at = |text: String, span: std::ops::Range<usize>| {
        Place::new(&Arc::new(SourceText { name: name.to_owned(), text, order: 0 }), span)
    };
    let nowhere = || at(String::new(), 0..0);
    if file.is_dir() {
        let hint = manifests_in(file).first().map(|inside| format!("name a file in it, such as {name}/{inside}"));
        return Err(Diagnostic::error(&nowhere(), "this is a folder, not a manifest").hint(hint));
    }
    let mut bytes = Vec::new();
    if let Err(error) = File::open(file).and_then(|opened| opened.take(LARGEST + 1).read_to_end(&mut bytes)) {
        let hint = (error.kind() == ErrorKind::NotFound).then(|| sibling(file, name)).flatten();
        let problem = Diagnostic::error(&nowhere(), format!("cannot read this manifest: {error}"));
        return Err(problem.hint(hint.map(|path| format!("did you mean `{}`?", path.display()))));
    }
    if bytes.len() as u64 > LARGEST {
        let message = format!("this is longer than {} MiB, so it is no manifest", LARGEST >> 20);
        return Err(Diagnostic::error(&nowhere(), message));
    }
    String::from_utf8(bytes).map_err(|error| {
        let start = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let place = at(text, start..start + char::REPLACEMENT_CHARACTER.len_utf8());
        Diagnostic::error(&place, "this byte is not UTF-8").hint("save the manifest as UTF-8".to_owned())
    })
}

/// The bytes of a manifest that may be read once more later: of an ordinary file, and no more than a manifest may have. A
/// pipe gives them only once, a device without end.
pub(crate) fn bytes_of_ordinary(file: &Path) -> Option<Vec<u8>> {
    let mut opened =
        std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file).and_then(|_| File::open(file).ok())?;
    let mut bytes = Vec::new();
    opened.by_ref().take(LARGEST + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= LARGEST).then_some(bytes)
}

/// Names of the `.toml` files in a folder, sorted.
fn manifests_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    names
}

/// A manifest beside a missing one that has nearly its name, as the user would have written it.
fn sibling(file: &Path, given: &str) -> Option<PathBuf> {
    let names = manifests_in(file.parent()?);
    nearest(file.file_name()?.to_str()?, names.iter().map(String::as_str))
        .map(|found| Path::new(given).with_file_name(found))
}

/// The closest folder above a manifest that has a folder `manifests` in it, else the manifest's own folder.
pub fn project_root(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let own = file.parent().unwrap_or(&file);
    // Without `..` and links, so that the folders above are those that a person sees.
    let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
    own.ancestors().find(|folder| folder.join("manifests").is_dir()).unwrap_or(&own).to_owned()
}
