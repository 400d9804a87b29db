//! The outputs folder: room on its disk, and whether its file system can do what the store relies on. Unaware of what is
//! in it.
use super::Finding;
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Below this, bytes, a small model's checkpoints do not fit.
const LITTLE_ROOM: u64 = 5 << 30;

pub(super) fn look(outputs: &Path) -> Vec<Finding> {
    let there = outputs.is_dir();
    // The first run makes the folder; until then its parent tells as much.
    let Some(probed) = outputs.ancestors().find(|folder| folder.is_dir() || *folder == Path::new("")) else {
        return Vec::new();
    };
    let probed = if probed == Path::new("") { Path::new(".") } else { probed };
    let name = outputs.display();
    let writable = match probe(probed) {
        Ok(()) if there => Finding::fine("outputs", format!("{name} can be written and locked")),
        Ok(()) => Finding::fine("outputs", format!("{name} is not there yet; the first run makes it")),
        Err((what, error)) => Finding::problem(
            "outputs",
            format!("{name}: cannot {what} in {}: {error}", probed.display()),
            "choose another folder with --outputs, on a local file system that you may write to",
        ),
    };
    let mut findings = vec![writable];
    findings.extend(room(probed));
    findings
}

/// Does once what the store does for every result: write durably, rename, lock.
fn probe(folder: &Path) -> Result<(), (&'static str, std::io::Error)> {
    let of = |what: &'static str| move |error: std::io::Error| (what, error);
    let name = format!(".anneal-doctor-{}", std::process::id());
    let (first, second) = (folder.join(&name), folder.join(format!("{name}-moved")));
    let tried = (|| {
        let mut file = File::create_new(&first).map_err(of("create a file"))?;
        file.write_all(b"probe").map_err(of("write"))?;
        file.sync_all().map_err(of("write durably"))?;
        file.try_lock().map_err(|e| ("lock a file", std::io::Error::other(e.to_string())))?;
        std::fs::rename(&first, &second).map_err(of("rename a file"))
    })();
    // Whichever of the two is there.
    let _ = std::fs::remove_file(&first);
    let _ = std::fs::remove_file(&second);
    tried
}

fn room(folder: &Path) -> Option<Finding> {
    let state = rustix::fs::statvfs(folder).ok()?;
    Some(judge_room(state.f_bavail.saturating_mul(state.f_frsize)))
}

fn judge_room(free: u64) -> Finding {
    let text = format!("{} free", size(free));
    if free < LITTLE_ROOM {
        return Finding::missing("disk", text, "make room, or choose a folder on another disk with --outputs");
    }
    Finding::fine("disk", text)
}

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1_u32 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Level;

    #[test]
    fn a_folder_is_probed_and_left_as_it_was() {
        let dir = tempfile::tempdir().expect("a folder");
        let findings = look(dir.path());
        assert_eq!(findings[0].level, Level::Fine, "{findings:?}");
        assert!(findings.iter().any(|finding| finding.topic == "disk"));
        assert!(look(&dir.path().join("a/b"))[0].text.contains("is not there yet"));
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
        assert_eq!(probe(Path::new("/proc")).expect_err("no file here").0, "create a file");
        assert_eq!((judge_room(1 << 30).level, judge_room(6 << 30).level), (Level::Missing, Level::Fine));
    }
}
