//! Programs that outlived their run: a stage that runs in the driver starts programs, and a driver that is killed cannot
//! end them. They are known by the folder they write into, which their environment names, and ended when that folder is
//! swept.
//!
//! Unaware of what they are. A process number alone would say nothing: it may belong to somebody else by now.
use crate::stage::OUT_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;

/// Ends every process that this user may look at and whose environment says that it writes into one of these folders of
/// work. Where the system does not tell, nothing is ended.
pub(super) fn end(folders: &[PathBuf]) {
    if folders.is_empty() {
        return;
    }
    let wanted: Vec<Vec<u8>> = folders.iter().map(|folder| variable(folder.clone())).collect();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let (Some(pid), Ok(environment)) = (pid, std::fs::read(entry.path().join("environ"))) else { continue };
        if environment.split(|byte| *byte == 0).any(|variable| wanted.iter().any(|wanted| wanted == variable)) {
            // It may end by itself at this moment.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The variable as a program of this folder has it.
fn variable(folder: PathBuf) -> Vec<u8> {
    let mut variable = format!("{OUT_VARIABLE}=").into_bytes();
    variable.extend_from_slice(folder.join("out").as_os_str().as_encoded_bytes());
    variable
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn only_what_works_in_the_folder_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        let start = |name: &str, out: PathBuf| Command::new("sleep").arg("100").env(name, out).spawn().unwrap();
        let mut children = [
            start(OUT_VARIABLE, one.join("out")),
            start(OUT_VARIABLE, two.join("out")),
            start(OUT_VARIABLE, one.join("out/more")),
            start("OTHER", one.join("out")),
        ];
        end(&[dir.path().join("three"), one]);
        assert_eq!(children[0].wait().unwrap().signal(), Some(9));
        for other in &mut children[1..] {
            assert_eq!(other.try_wait().unwrap(), None);
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
