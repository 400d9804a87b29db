//! The data files that `data/sources.toml` names: there or not, and by sha256 the right ones or not. Unaware of formats.
use super::Finding;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

const TOPIC: &str = "data";

pub(super) fn look(root: &Path, folder: Option<&Path>) -> Vec<Finding> {
    let list = root.join("data/sources.toml");
    let Ok(text) = std::fs::read_to_string(&list) else {
        return vec![Finding::fine(
            TOPIC,
            format!("no data/sources.toml in {}, so nothing to look for", root.display()),
        )];
    };
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            let next = "restore the file from the repository";
            return vec![Finding::problem(TOPIC, format!("{}: {}", list.display(), first_line(&error)), next)];
        }
    };
    let big = root.join("data/big");
    let folder = folder.unwrap_or(&big);
    table.iter().map(|(name, entry)| one(name, entry, folder, &list)).collect()
}

fn first_line(error: &impl std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

fn one(name: &str, entry: &toml::Value, folder: &Path, list: &Path) -> Finding {
    let text = |key: &str| entry.get(key).and_then(toml::Value::as_str);
    let (Some(file), Some(expected)) = (text("file"), text("sha256")) else {
        let what = format!("{}: [{name}] has no `file` or no `sha256`", list.display());
        return Finding::problem(TOPIC, what, "restore the file from the repository");
    };
    let source = text("source").unwrap_or("where data/sources.toml says");
    let path = folder.join(file);
    let shown = path.display();
    match sha256(&path) {
        Ok(found) if found.eq_ignore_ascii_case(expected) => Finding::fine(TOPIC, format!("{shown}")),
        Ok(found) => Finding::problem(
            TOPIC,
            format!("{shown} is another file: its sha256 is {found}, expected {expected}"),
            format!("replace it by the one from {source}"),
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::missing(
            TOPIC,
            format!("{shown} is not there"),
            format!("copy it there from {source}, or say where it lies with --data DIR"),
        ),
        Err(error) => {
            Finding::problem(TOPIC, format!("cannot read {shown}: {error}"), "make it readable, or copy it again")
        }
    }
}

/// In pieces, so that a model's weights need no memory.
fn sha256(path: &PathBuf) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Level;

    #[test]
    fn each_file_is_fine_different_or_missing() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("data/big");
        std::fs::create_dir_all(&folder).expect("made");
        // The digest of "abc" is the example of FIPS 180-2.
        let abc = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        let entry =
            |name: &str| format!("[{name}]\nfile = \"{name}.json\"\nsource = \"the shelf\"\nsha256 = \"{abc}\"\n");
        let list = ["fine", "other", "absent"].map(entry).concat() + "[bad]\nfile = \"x\"\n";
        std::fs::write(root.path().join("data/sources.toml"), list).expect("written");
        std::fs::write(folder.join("fine.json"), "abc").expect("written");
        std::fs::write(folder.join("other.json"), "abd").expect("written");
        let mut found = look(root.path(), None);
        found.sort_by(|a, b| (a.level, &a.text).cmp(&(b.level, &b.text)));
        let levels: Vec<Level> = found.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Fine, Level::Missing, Level::Problem, Level::Problem], "{found:?}");
        assert!(found[1].next.as_ref().is_some_and(|next| next.contains("from the shelf")), "{found:?}");
        assert!(
            found.iter().any(|finding| finding.text.contains("other.json is another file: its sha256 is a52d159f"))
        );
        assert!(found.iter().any(|finding| finding.text.contains("[bad] has no `file` or no `sha256`")));
        let elsewhere = look(root.path(), Some(root.path()));
        assert_eq!(elsewhere.iter().filter(|finding| finding.level == Level::Missing).count(), 3);
        std::fs::write(root.path().join("data/sources.toml"), "[x").expect("written");
        assert_eq!(look(root.path(), None)[0].level, Level::Problem);
        assert_eq!(look(&folder, None)[0].level, Level::Fine);
    }
}
