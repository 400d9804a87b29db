//! Programs without an engine: the wish to stop, a worker's process group, and the files that are found for them.
use super::*;
use anneal_engine::{Launch, StageInput};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Runs `sh -c SCRIPT` in a folder, and asks it to stop as soon as there is a file `begun`.
fn run(dir: &Path, script: &str, own_group: bool, grace: Duration) -> child::Ended {
    let (params, inputs) = (Value::Null, BTreeMap::<String, StageInput>::new());
    let group = RefCell::new(Vec::new());
    let adopt = |number: Option<u32>| group.borrow_mut().push(number);
    let log = dir.join("log");
    let context = StageContext {
        name: "s",
        params: &params,
        seed: 0,
        numerics: "cpu-f32",
        device_memory_limit_mib: None,
        inputs: &inputs,
        sources: &[],
        out: dir,
        checkpoints: dir,
        launch: Launch { root: dir, scratch: dir, log: &log, adopt: own_group.then_some(&adopt) },
        emit: &|_| (),
        stop: &|| dir.join("begun").exists(),
        programs_mib: std::cell::Cell::new(None),
        metrics: RefCell::default(),
        references: RefCell::default(),
    };
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(dir).stdin(Stdio::null());
    let ended = child::run(&mut command, &context, grace).unwrap();
    let told = group.into_inner();
    assert!(if own_group { matches!(told.as_slice(), [Some(_), None]) } else { told.is_empty() }, "{told:?}");
    ended
}

#[test]
fn a_program_that_does_not_listen_is_killed_after_its_grace() {
    for own_group in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; touch begun; while :; do sleep 0.05; done";
        let ended = run(dir.path(), script, own_group, Duration::from_millis(200));
        assert!(ended.stopped && !ended.status.success(), "{ended:?}");
    }
}

#[test]
fn a_program_that_listens_may_end_well() {
    for own_group in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap 'echo bye; exit 0' TERM; touch begun; while :; do sleep 0.05; done";
        let ended = run(dir.path(), script, own_group, child::GRACE);
        assert!(ended.stopped && ended.status.success(), "{ended:?}");
        // A shell may have words of its own for its child, on its other output.
        assert!(std::fs::read_to_string(dir.path().join("log")).unwrap().contains("bye\n"));
    }
}

#[test]
fn nobody_waits_for_what_a_program_left_holding_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let ended = run(dir.path(), "echo 'anneal: metric a 1'; sleep 1000 & echo $! > pid", false, child::GRACE);
    assert!(ended.status.success() && ended.metrics["a"] == 1.0);
    // Not a matter of speed: the program that is left would sleep for a quarter of an hour.
    assert!(begin.elapsed() < Duration::from_secs(500));
    let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
}

#[test]
fn a_flood_without_line_ends_is_kept_and_costs_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let script = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo 'anneal: metric a 1'; printf 'anneal: metric b 2'";
    let ended = run(dir.path(), script, true, child::GRACE);
    assert_eq!(ended.metrics, BTreeMap::from([("a".to_owned(), 1.0), ("b".to_owned(), 2.0)]));
    assert!(std::fs::metadata(dir.path().join("log")).unwrap().len() > 3_000_000);
}

/// The names of the files found, or what is wrong.
fn listed(root: &Path, paths: &[&str]) -> Result<Vec<String>, Vec<Problem>> {
    let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
    files::list(root, &paths).map(|files| files.into_iter().map(|file| file.name).collect())
}

#[test]
fn files_are_named_by_their_place_in_the_project_and_sorted() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("p");
    for folder in ["a/b", "a/__pycache__", "z"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in ["a/b/2", "a/b/10", "a/1", "a/__pycache__/x.pyc", "z/y", "top"] {
        std::fs::write(root.join(file), file).unwrap();
    }
    std::fs::write(temp.path().join("outside"), "").unwrap();
    std::os::unix::fs::symlink("../../outside", root.join("z/link")).unwrap();
    assert_eq!(listed(&root, &["z", "a", "top", "a/1"]).unwrap(), ["a/1", "a/b/10", "a/b/2", "top", "z/link", "z/y"]);
    assert_eq!(listed(&root, &["./a/../top"]).unwrap(), ["top"]);
    assert_eq!(listed(&root, &["."]).unwrap().len(), 6);
    let wrong = listed(&root, &["../outside", "nowhere", "/dev/null"]).unwrap_err();
    assert_eq!(wrong.iter().map(|problem| problem.missing_file).collect::<Vec<_>>(), [false, true, false]);
    // A link that leads back.
    std::os::unix::fs::symlink("..", root.join("a/up")).unwrap();
    assert!(listed(&root, &["a"]).is_err());
    std::fs::remove_file(root.join("a/up")).unwrap();
    // Something that can be opened but never read to its end.
    assert!(Command::new("mkfifo").arg(root.join("a/pipe")).status().unwrap().success());
    assert!(listed(&root, &["a"]).is_err());
}

#[test]
fn a_program_of_the_project_is_among_its_files() {
    let source = |name: &str| Source { name: name.to_owned(), ..Source::default() };
    let known = [source("scripts/run.sh"), source("tool")];
    for fine in ["scripts/run.sh", "./scripts//run.sh", "./tool", "tool", "other", "/bin/sh", "{input:x}/run"] {
        assert!(files::undeclared(fine, &known).is_none(), "{fine}");
    }
    for wrong in ["scripts/other.sh", "./other", "../tool"] {
        assert!(files::undeclared(wrong, &known).is_some(), "{wrong}");
    }
}

#[test]
fn outputs_are_plain_paths_named_once() {
    let count =
        |outputs: &[&str]| outputs::check(&outputs.iter().map(|output| (*output).to_owned()).collect::<Vec<_>>()).len();
    assert_eq!(count(&["a", "b/", "c/d", "b-e", "c/e/", "ä .txt"]), 0);
    for wrong in ["", "/", "/a", "../a", "a/../b", "./a", "a//b", "a/.", "a\n", "a//"] {
        assert_eq!(count(&[wrong]), 1, "{wrong:?}");
    }
    assert_eq!(count(&["a", "a"]), 1);
    assert_eq!(count(&["a", "a/"]), 1);
    assert_eq!(count(&["a/", "a/b", "a/b/c"]), 2);
}
