//! Trouble around the store: a spoiled index, a layout of a newer anneal, two manifests of one name, a clock that goes
//! backwards, outputs that may only be read.
use crate::bad_places::as_nobody;
use crate::project::{Outcome, Project};
use crate::sweeps::{manifest, noting, project, ran};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

fn stages() -> String {
    noting("up", "", &["X"], "") + &noting("work", "up = \"up\"", &[], "echo 'anneal: metric em 1'")
}

/// What a run warns of.
fn warnings(outcome: &Outcome) -> Vec<String> {
    let events = outcome.events();
    let warns = |event: &&Value| event["event"]["type"] == "note" && event["event"]["warning"] == true;
    events.iter().filter(warns).map(|event| event["event"]["message"].as_str().unwrap().to_owned()).collect()
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(below(&path));
        } else if !path.is_symlink() {
            found.push(path);
        }
    }
    found
}

/// Ways to spoil an index.
fn spoiled(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut flipped = bytes.to_vec();
    let middle = bytes.len() / 2;
    flipped[middle] ^= 0x55;
    vec![b"rubbish\n{\"\0".to_vec(), flipped, bytes[..bytes.len() - 7].to_vec(), bytes[7..].to_vec(), Vec::new()]
}

#[test]
fn a_spoiled_index_costs_no_result() {
    let project = project(&stages());
    project.run(&["s.toml"]);
    let index = project.path("outputs/objects-v1/index");
    for bytes in spoiled(&std::fs::read(&index).unwrap()) {
        std::fs::write(&index, bytes).unwrap();
        assert_eq!(project.anneal(&["report", "s.toml"]).code, Some(0));
        assert_eq!(project.run(&["s.toml"]), (0, 2));
    }
    std::fs::remove_file(&index).unwrap();
    assert_eq!(project.run(&["s.toml"]), (0, 2));
    assert_eq!(ran(&project).len(), 2);
}

#[test]
fn a_spoiled_index_is_told_of_once() {
    let project = project(&stages());
    project.run(&["s.toml"]);
    let index = project.path("outputs/objects-v1/index");
    for bytes in spoiled(&std::fs::read(&index).unwrap()) {
        std::fs::write(&index, bytes).unwrap();
        let told = project.anneal(&["run", "s.toml"]).stderr;
        assert_eq!(told.matches("index").count(), 1, "{told}");
        let told = project.anneal(&["run", "s.toml"]).stderr;
        assert_eq!(told.matches("index").count(), 0, "{told}");
    }
}

#[test]
fn a_folder_of_a_newer_anneal_is_left_alone() {
    for beside in [false, true] {
        let project = project(&stages());
        if beside {
            project.run(&["s.toml"]);
        }
        std::fs::create_dir_all(project.path("outputs/objects-v2/trees")).unwrap();
        let before = below(&project.path("outputs"));
        ran(&project);
        for command in ["run", "plan", "report"] {
            let outcome = project.anneal(&[command, "s.toml"]);
            assert_eq!(outcome.code, Some(3), "{outcome:?}");
            insta::allow_duplicates! { insta::assert_snapshot!(outcome.told(), @r"
            exit code 3
            error: [DIR]/outputs/objects-v2 was made by a newer anneal; this one uses objects-v1
            help: use the newer anneal, or another folder: --outputs DIR
            "); }
        }
        assert_eq!(ran(&project), [""; 0]);
        assert_eq!(below(&project.path("outputs")), before);
        assert_eq!(project.run(&["s.toml", "--outputs", "other"]), (2, 0));
    }
}

#[test]
fn two_manifests_of_one_name_are_told_of_each_other() {
    let project = project(&stages());
    let text = project.read("s.toml");
    project.write("manifests/other.toml", text.replace("X = \"0\"", "X = \"1\""));
    let run = |manifest: &str| project.anneal(&["run", "--json", "--root", ".", manifest]);
    assert_eq!(warnings(&run("s.toml")), [""; 0]);
    insta::assert_snapshot!(warnings(&run("manifests/other.toml")).join("\n"), @"s.toml is experiment `s` too: no result is lost, but the names in outputs/latest/s now lead to this manifest's; give one of them another name");
    // By whatever path it is named.
    assert_eq!(warnings(&run("./manifests/../manifests/other.toml")), [""; 0]);
    // Nothing is lost: the other's results are there, and its names lead to them again.
    let back = run("s.toml");
    assert_eq!((warnings(&back).len(), ran(&project).len()), (1, 4));
    assert_eq!(std::fs::read_to_string(project.artifact("s", "up").join("out")).unwrap(), "up X=0\n");
    assert_eq!(warnings(&run("s.toml")), [""; 0]);
    // A manifest that was renamed is not another.
    std::fs::rename(project.path("s.toml"), project.path("t.toml")).unwrap();
    assert_eq!(warnings(&run("t.toml")), [""; 0]);
    let shown = project.anneal(&["run", "--root", ".", "manifests/other.toml"]).stderr;
    assert_eq!(shown.matches("t.toml is experiment `s` too").count(), 1, "{shown}");
}

#[test]
fn a_clock_that_goes_backwards_breaks_nothing() {
    let future = SystemTime::now() + Duration::from_secs(3_000_000_000);
    let later = |path: &Path| {
        let mode = std::fs::metadata(path).unwrap().permissions();
        if path.is_file() {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_modified(future).unwrap();
        } else {
            std::fs::File::open(path).unwrap().set_modified(future).unwrap();
        }
        std::fs::set_permissions(path, mode).unwrap();
    };
    let project = Project::new();
    let fails = noting("fails", "", &[], "sleep 100").trim_end().to_owned() + "\ntimeout = 0.2\n";
    let text = project.read("tiny.toml") + "\n" + &noting("all", "", &[], "") + &fails;
    project.write("s.toml", text.replace("command = [", "files = [\"train.json\"]\ncommand = ["));
    later(&project.path("train.json"));
    let run = || project.anneal(&["run", "--json", "s.toml"]);
    let counts = |outcome: &Outcome| {
        let last = outcome.events().pop().unwrap();
        ["executed", "cached", "failed"].map(|key| last["event"][key].as_u64().unwrap())
    };
    assert_eq!(counts(&run()), [10, 0, 1]);
    // The times that records and failures tell, and those of all files.
    for folder in ["records", "failures"] {
        for entry in std::fs::read_dir(project.path("outputs/objects-v1").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            for key in ["started", "time"] {
                if let Some(time) = value.get_mut(key) {
                    *time = (time.as_f64().unwrap() + 3e9).into();
                }
            }
            std::fs::write(&path, value.to_string()).unwrap();
        }
    }
    below(&project.path("outputs")).iter().for_each(|path| later(path));
    assert_eq!(counts(&run()), [0, 10, 1]);
    for command in ["plan", "report"] {
        assert_eq!(project.anneal(&[command, "s.toml"]).code, Some(0));
    }
    // What changes is still seen, and runs are still told apart.
    let text = project.read("train.json");
    project.write("train.json", text + "\n");
    let again = counts(&run());
    assert!(again[0] >= 2 && again[2] == 1, "{again:?}");
    assert_eq!(counts(&run()), [0, 10, 1]);
}

#[test]
fn outputs_that_may_only_be_read_are_enough_when_nothing_is_to_do() {
    let project = project(&stages());
    project.run(&["s.toml"]);
    let all = below(&project.path("outputs"));
    let protect = |write: u32| {
        for path in &all {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            std::fs::set_permissions(path, PermissionsExt::from_mode((mode & 0o555) | write)).unwrap();
        }
    };
    protect(0);
    let outcomes: Vec<Option<Outcome>> = [&["plan", "s.toml"][..], &["report", "s.toml"], &["run", "s.toml", "--json"]]
        .map(|args| as_nobody(&project, args))
        .into();
    let changed = as_nobody(&project, &["run", "s.toml", "--set", "up.env.X=7"]);
    protect(0o200);
    let [Some(plan), Some(report), Some(run)] = outcomes.as_slice() else { return };
    assert_eq!((plan.code, report.code, run.code), (Some(0), Some(0), Some(0)), "{plan:?} {report:?} {run:?}");
    assert!(plan.stdout.contains("2 cached, 0 to run"), "{}", plan.stdout);
    assert_eq!(warnings(run), [""; 0]);
    let changed = changed.unwrap();
    assert_eq!(changed.code, Some(3), "{changed:?}");
    assert!(changed.stderr.contains("Permission denied") && changed.stderr.contains("outputs"), "{}", changed.stderr);
    manifest(&project, &stages());
    assert_eq!(project.run(&["s.toml"]), (0, 2));
}
