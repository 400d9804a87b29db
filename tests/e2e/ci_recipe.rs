//! The recipe of docs/ci.md, on a machine that starts empty each time: only what changed is executed, and what differs
//! from the base's run is told.
use crate::project::{ANNEAL, Outcome, Project};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Stages of the tiny manifest.
const STAGES: usize = 9;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Runs the script as a fresh runner would: of the last time only the kept folder is there.
#[track_caller]
fn rerun(project: &Project, is_base: bool) -> Outcome {
    rerun_with(project, is_base, Path::new(ANNEAL))
}

fn rerun_with(project: &Project, is_base: bool, program: &Path) -> Outcome {
    let _ = std::fs::remove_dir_all(project.path("outputs"));
    let mut command = Command::new("sh");
    command.arg(docs().join("ci/rerun.sh")).args(["tiny.toml", "--json"]);
    command.current_dir(project.path("")).stdin(Stdio::null());
    command.env("ANNEAL", program).env("IS_BASE", if is_base { "1" } else { "0" });
    command.env("GITHUB_STEP_SUMMARY", project.path("summary.md"));
    for name in ["OUTPUTS", "STORE", "DIFF", "STORE_MIB", "ANNEAL_FAILPOINT"] {
        command.env_remove(name);
    }
    project.outcome(command)
}

/// The names of the stages that were executed.
#[track_caller]
fn executed(outcome: &Outcome) -> BTreeSet<String> {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let finished = outcome.events().into_iter().filter(|event| event["event"]["type"] == "stage-finished");
    finished.map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn only_what_changed_runs_on_a_fresh_machine_and_the_difference_is_told() {
    let project = Project::new();
    assert_eq!(executed(&rerun(&project, true)).len(), STAGES);
    assert!(project.read("diff.md").contains("no run of the base"), "{}", project.read("diff.md"));

    // A pull request that changes nothing.
    assert_eq!(executed(&rerun(&project, false)), BTreeSet::new());
    assert!(project.read("diff.md").contains("No differences."), "{}", project.read("diff.md"));

    // One that changes a parameter: that stage runs, and what takes other bytes than before.
    let before = project.digests(&["tiny.toml"]);
    project.edit("max_steps = 8", "max_steps = 6");
    let ran = executed(&rerun(&project, false));
    let after = project.digests(&["tiny.toml"]);
    let mut expected: BTreeSet<String> = ["lora", "merged", "answers"].map(str::to_owned).into();
    expected.extend((after["answers"] != before["answers"]).then(|| "score".to_owned()));
    assert_eq!(ran, expected);
    let diff = project.read("diff.md");
    for word in ["max_steps", "train_loss", "|"] {
        assert!(diff.contains(word), "{word} is not in\n{diff}");
    }
    assert!(project.read("summary.md").ends_with(&diff));

    // The same commit again: the comparison is still with the base, not with the run before.
    assert_eq!(executed(&rerun(&project, false)), BTreeSet::new());
    assert!(project.read("diff.md").contains("max_steps"), "{}", project.read("diff.md"));

    // And taken back, all of it is there: what is told is of this commit, not of the last one that executed something.
    project.edit("max_steps = 6", "max_steps = 8");
    assert_eq!(executed(&rerun(&project, false)), BTreeSet::new());
    assert!(project.read("diff.md").contains("No differences."), "{}", project.read("diff.md"));
}

#[test]
fn a_run_that_leaves_no_folder_changed_nothing() {
    let project = Project::new();
    executed(&rerun(&project, true));
    // A program that records nothing where there is nothing to do.
    let program = project.path("unrecorded.sh");
    project.write("unrecorded.sh", format!("#!/bin/sh\n[ \"$1\" = run ] || exec {ANNEAL} \"$@\"\nexit 0\n"));
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let outcome = rerun_with(&project, false, &program);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(project.read("diff.md").starts_with("Nothing changed"), "{}", project.read("diff.md"));
    // The store of before is still the one that is kept.
    assert_eq!(executed(&rerun(&project, false)), BTreeSet::new());
}

#[test]
fn a_damaged_archive_is_not_used() {
    let project = Project::new();
    executed(&rerun(&project, true));
    let digests = project.digests(&["tiny.toml"]);
    let archive = project.path(".anneal-store/store.tar");
    let whole = std::fs::read(&archive).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bytes in [&whole[..whole.len() / 2], &flipped] {
        std::fs::write(&archive, bytes).unwrap();
        let outcome = rerun(&project, true);
        assert!(outcome.stderr.contains("is damaged"), "{outcome:?}");
        assert_eq!(executed(&outcome).len(), STAGES);
        assert_eq!(project.digests(&["tiny.toml"]), digests);
    }
}

#[test]
fn half_an_archive_holds_no_record_without_its_objects() {
    let project = Project::new();
    executed(&rerun(&project, true));
    let bytes = std::fs::read(project.path(".anneal-store/store.tar")).unwrap();
    // The last parts are cut among the records and runs.
    for part in [12, 30, 36, 37, 38, 39] {
        std::fs::remove_dir_all(project.path("outputs")).unwrap();
        std::fs::create_dir(project.path("outputs")).unwrap();
        std::fs::write(project.path("half.tar"), &bytes[..bytes.len() * part / 40]).unwrap();
        // It complains of the end, after unpacking what there is.
        let mut tar = Command::new("tar");
        tar.args(["-C", "outputs", "-xf", "half.tar"]).current_dir(project.path("")).stderr(Stdio::null());
        tar.status().unwrap();
        // Either a stage is found whole or it runs; a hit on something half would end the run or change a digest.
        let (executed, cached) = project.run(&["tiny.toml"]);
        assert_eq!(executed + cached, STAGES);
        assert_eq!(project.run(&["tiny.toml"]), (0, STAGES));
    }
}

#[test]
fn a_failure_is_told_and_the_rest_is_kept() {
    let project = Project::new();
    project.edit("max_length = 1024", "max_length = 1024\nno_such_key = 1");
    let outcome = rerun(&project, false);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(!project.path(".anneal-store/store.tar").exists());
    // Fewer tokens than any example has: a stage fails, others are kept.
    project.edit("max_length = 1024\nno_such_key = 1", "max_length = 16");
    let outcome = rerun(&project, true);
    assert!(outcome.code.is_some_and(|code| code != 0), "{outcome:?}");
    project.edit("max_length = 16", "max_length = 1024");
    let ran = executed(&rerun(&project, false));
    assert!(ran.contains("tokens") && !ran.contains("data"), "{ran:?}");
    // A run with a failure is not what others are compared with.
    assert!(project.read("diff.md").contains("no run of the base"));
}

#[test]
fn the_manual_shows_the_workflow_as_it_is() {
    let manual = std::fs::read_to_string(docs().join("ci.md")).unwrap();
    let workflow = std::fs::read_to_string(docs().join("ci/anneal.yml")).unwrap();
    assert!(manual.contains(&format!("```yaml\n{workflow}```")), "docs/ci.md and docs/ci/anneal.yml differ");
}
