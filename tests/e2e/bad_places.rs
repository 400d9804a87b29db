//! Outputs that cannot be written and results that nobody reads: full disks, missing permissions, files where folders
//! should be, closed pipes.
use crate::project::{ANNEAL, Cases, Outcome, Project};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

fn told(outcome: &Outcome) -> String {
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    let told = outcome.told();
    told.lines().filter(|line| !line.contains("skipped: ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn outputs_that_are_no_folder() {
    let mut cases = Cases::default();
    let project = Project::new();
    project.write("outputs", "a file");
    cases.add("outputs on a file", told(&project.anneal(&["run", "tiny.toml"])));
    assert_eq!(project.read("outputs"), "a file");
    cases.add("outputs below a file", told(&project.anneal(&["plan", "tiny.toml", "--outputs", "train.json/x"])));
    insta::assert_snapshot!(cases);
}

#[test]
fn a_disk_that_is_full_or_closed_at_any_step() {
    let mut cases = Cases::default();
    let project = Project::new();
    for (name, point) in [("a full disk", "file-synced=enospc"), ("no permission to publish", "tree-renamed=eacces")] {
        let mut command = project.command(&["run", "tiny.toml", "--jobs", "1"]);
        command.env("ANNEAL_FAILPOINT", point);
        cases.add(name, told(&project.outcome(command)));
    }
    // The failpoint met one stage only; whatever was finished beside it is kept, and the rest runs now.
    let (executed, cached) = project.run(&["tiny.toml"]);
    assert_eq!(executed + cached, 9);
    assert_eq!(project.run(&["tiny.toml"]), (0, 9));
    insta::assert_snapshot!(cases);
}

/// A real full disk: a file system of 300 KB, mounted for this process and its children alone.
#[test]
fn a_real_full_disk() {
    let project = Project::new();
    std::fs::create_dir(project.path("outputs")).unwrap();
    // Half of what was there is kept for the second run, which finds room.
    let script = format!(
        "mount -t tmpfs -o size=300k none outputs || exit 99; '{ANNEAL}' run tiny.toml --jobs 1; code=$?; \
         mount -o remount,size=30m outputs; '{ANNEAL}' run tiny.toml --jobs 1 --json | tail -1; exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]).current_dir(project.path("."));
    let outcome = match command.output() {
        Ok(output) if output.status.code() != Some(99) && output.status.code() != Some(1) => output,
        other => {
            println!("skipped: no file system can be mounted here: {other:?}");
            return;
        }
    };
    let (stdout, stderr) = (String::from_utf8_lossy(&outcome.stdout), String::from_utf8_lossy(&outcome.stderr));
    assert_eq!(outcome.status.code(), Some(3), "{stdout}{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    assert!(stderr.contains("help: the disk is full; free some space and run again"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let last: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let count = |key: &str| last["event"][key].as_u64().unwrap();
    assert_eq!((count("executed") + count("cached"), count("failed")), (9, 0), "{last}");
    assert!(count("cached") > 0, "what was finished before the disk was full is kept: {last}");
}

/// The program as somebody who may not do everything; `None` where the tester cannot change.
pub(crate) fn as_nobody(project: &Project, args: &[&str]) -> Option<Outcome> {
    let mut command = project.command(args);
    if rustix::process::geteuid().is_root() {
        // Root passes every permission, so the program runs as nobody, from a place that nobody can reach.
        let program = project.path("anneal");
        if !program.exists() {
            std::fs::copy(ANNEAL, &program).unwrap();
        }
        std::fs::set_permissions(project.path(".."), PermissionsExt::from_mode(0o755)).unwrap();
        command = Command::new(program);
        command.args(args).current_dir(project.path(".")).stdin(Stdio::null()).uid(65534).gid(65534);
        if command.output().is_err() {
            println!("skipped: cannot become another user here");
            return None;
        }
    }
    Some(project.outcome(command))
}

#[test]
fn folders_that_may_not_be_written() {
    let mut cases = Cases::default();
    let project = Project::new();
    let protect = |mode: u32| {
        for folder in ["", "objects-v1", "objects-v1/tmp", "objects-v1/locks", "objects-v1/records", "runs"] {
            let path = project.path("outputs").join(folder);
            if path.exists() {
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            }
        }
    };
    std::fs::create_dir(project.path("outputs")).unwrap();
    protect(0o555);
    let Some(outcome) = as_nobody(&project, &["run", "tiny.toml"]) else { return };
    cases.add("outputs may not be written", told(&outcome));
    protect(0o755);
    project.run(&["tiny.toml", "--only", "tokens"]);
    protect(0o555);
    let outcome = as_nobody(&project, &["run", "tiny.toml"]).unwrap();
    cases.add("a store that may not be written", told(&outcome));
    // To look is allowed.
    let planned = as_nobody(&project, &["plan", "tiny.toml"]).unwrap();
    assert_eq!(planned.code, Some(0), "{planned:?}");
    assert!(planned.stdout.contains("3 cached"), "{}", planned.stdout);
    std::fs::set_permissions(project.path("train.json"), PermissionsExt::from_mode(0o000)).unwrap();
    let outcome = as_nobody(&project, &["plan", "tiny.toml"]).unwrap();
    assert!(outcome.stdout.contains("Permission denied") || outcome.stdout.contains("cached"), "{outcome:?}");
    std::fs::set_permissions(project.path("train.json"), PermissionsExt::from_mode(0o644)).unwrap();
    protect(0o755);
    assert_eq!(project.run(&["tiny.toml"]), (6, 3));
    insta::assert_snapshot!(cases);
}

#[test]
fn manifests_that_are_none() {
    let mut cases = Cases::default();
    let project = Project::new();
    project.write("manifests/a.toml", "");
    project.write("binary.toml", [b'a', 0xff, 0xfe, 0, 1]);
    project.write("nul.toml", "a = \"\0\"");
    for (name, file) in [
        ("a folder as manifest", "manifests"),
        ("an empty manifest", "manifests/a.toml"),
        ("a missing manifest", "tinny.toml"),
        ("a binary manifest", "binary.toml"),
        ("a manifest with a control character", "nul.toml"),
        ("a data file as manifest", "train.json"),
        ("a device as manifest", "/dev/zero"),
    ] {
        let [run, plan] = ["run", "plan"].map(|command| project.anneal(&[command, file]));
        assert_eq!((run.code, plan.code), (Some(3), Some(3)), "{run:?} {plan:?}");
        assert_eq!(told(&run), told(&plan));
        cases.add(name, told(&run));
    }
    assert!(!project.path("outputs").exists(), "nothing is written for a manifest that cannot be read");
    insta::assert_snapshot!(cases);
}

#[test]
fn results_that_nobody_reads() {
    let project = Project::new();
    // A closed pipe, as in `anneal run ... | head`: the run goes on for its results.
    for args in [&["run", "tiny.toml"][..], &["run", "--json", "tiny.toml", "--set", "experiment.seed=8"]] {
        let mut command = project.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
    }
    assert_eq!(project.run(&["tiny.toml"]), (0, 9));
    // A full disk behind standard output.
    for args in [["plan", "tiny.toml"], ["run", "tiny.toml"], ["--help", "--color=never"]] {
        let mut command = project.command(&args);
        command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        let outcome = project.outcome(command);
        assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
        if args[0] != "--help" {
            assert_eq!(outcome.code, Some(3), "{outcome:?}");
            assert!(outcome.stderr.contains("cannot write to standard output"), "{outcome:?}");
        }
    }
}
