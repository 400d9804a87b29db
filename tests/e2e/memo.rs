//! The short way to see that there is nothing to do: it is taken when nothing changed, and never when anything did.
use crate::project::Project;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const MANIFEST: &str = r#"[experiment]
name = "memo"

[stages.one]
kind = "command"
command = ["cp", "src/one", "{out}/one"]
files = ["src/one"]

[stages.two]
kind = "command"
command = ["sh", "-c", "cat src/two \"$ANNEAL_INPUT_FROM/one\" > {out}/two; echo anneal: metric size 3"]
files = ["src/two"]
inputs = { from = "one" }
"#;

fn project() -> Project {
    let project = Project::new();
    project.write("memo.toml", MANIFEST);
    project.write("src/one", "first\n");
    project.write("src/two", "second\n");
    project
}

/// What a run tells, and whether it took the short way: that opens the store once and records no run. The long way either
/// records one, or finds nothing to do and opens the store again to write the memo.
fn run(project: &Project, args: &[&str]) -> (String, bool) {
    let log = project.path("points");
    let _ = std::fs::remove_file(&log);
    let mut command = project.command(&[&["run", "memo.toml"], args].concat());
    command.env("ANNEAL_FAILPOINT_LOG", &log);
    let outcome = project.outcome(command);
    // A run that cannot even begin passes no point.
    let points = std::fs::read_to_string(&log).unwrap_or_default();
    let opened = points.matches(" driver index-read\n").count();
    (outcome.stdout + &outcome.stderr, opened == 1 && !points.contains(" run-folder\n"))
}

/// Runs until the short way is taken.
fn settle(project: &Project) {
    for _ in 0..20 {
        let (told, short) = run(project, &[]);
        if short && told.starts_with("nothing to do: 2 cached stages") {
            return;
        }
        // A file that was written within the last clock tick is not trusted yet.
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    panic!("the short way is never taken: {:?}", run(project, &[]));
}

/// The only memo.
fn memo(project: &Project) -> PathBuf {
    let mut memos = std::fs::read_dir(project.path("outputs/objects-v1/memos")).unwrap();
    let only = memos.next().unwrap().unwrap().path();
    assert!(memos.next().is_none());
    only
}

/// The record of a stage's present result.
fn record(project: &Project, stage: &str) -> PathBuf {
    let keys: serde_json::Value = serde_json::from_str(&project.read("outputs/latest/memo/keys.json")).unwrap();
    project.path(&format!("outputs/objects-v1/records/{}.json", keys[stage].as_str().unwrap()))
}

#[test]
fn nothing_is_read_again_while_nothing_changes_and_all_is_told_as_before() {
    let project = project();
    assert!(run(&project, &[]).0.contains("2 executed"));
    let without_time =
        |text: String| text.split_once(" in ").map(|(before, after)| (before.to_owned(), after.to_owned()));
    let long = run(&project, &[]);
    settle(&project);
    let short = run(&project, &[]);
    assert!(short.1 && short.0.contains("size"), "{short:?}");
    let (long, short) = (without_time(long.0).unwrap(), without_time(short.0).unwrap());
    assert_eq!(long.0, short.0);
    let rest = |text: &str| text.lines().skip(1).collect::<Vec<_>>().join("\n");
    assert_eq!(rest(&long.1), rest(&short.1));
    // Whoever asks for more gets the long way.
    assert_eq!(project.run(&["memo.toml"]), (0, 2));
    assert!(!run(&project, &["--force", "one"]).1);
}

#[test]
fn every_change_is_seen_although_there_is_a_memo() {
    let project = project();
    run(&project, &[]);
    let record = || record(&project, "one");
    let blob = || project.artifact("memo", "two").join("two");
    let writable = |path: &PathBuf| std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let changes: [(&str, &dyn Fn()); 7] = [
        ("a file that a stage reads", &|| project.write("src/one", "FIRST\n")),
        ("the same with the old size", &|| project.write("src/two", "SECOND\n")),
        ("a record that is gone", &|| std::fs::remove_file(record()).unwrap()),
        ("a record that is none any more", &|| std::fs::write(record(), "rubbish").unwrap()),
        ("a result's file that is gone", &|| std::fs::remove_file(blob()).unwrap()),
        ("a result's file that is too short", &|| {
            writable(&blob());
            std::fs::write(blob(), "x").unwrap();
        }),
        ("the manifest", &|| project.write("memo.toml", MANIFEST.replace("cat src/two", "cat src/two src/two"))),
    ];
    for (what, change) in changes {
        settle(&project);
        change();
        let (told, short) = run(&project, &[]);
        assert!(!short && told.contains(" executed, "), "{what}: {told}");
        assert!(!told.contains("nothing to do"), "{what}: {told}");
    }
    settle(&project);
    let (told, _) = run(&project, &["--set", "one.command=[\"cp\", \"-f\", \"src/one\", \"{out}/one\"]"]);
    assert!(told.contains("1 executed"), "{told}");
    settle(&project);
    std::fs::remove_file(project.path("src/one")).unwrap();
    let (told, short) = run(&project, &[]);
    assert!(!short && told.contains("src/one"), "{told}");
}

#[test]
fn a_result_that_another_manifest_made_again_gives_other_keys() {
    let project = project();
    let one = "[stages.one]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"date +%s%N > {out}/one\"]\n";
    let rest = MANIFEST.split_once("[stages.two]").unwrap().1;
    project.write("memo.toml", format!("[experiment]\nname = \"memo\"\n\n{one}\n[stages.two]{rest}"));
    project.write("other.toml", format!("[experiment]\nname = \"other\"\n\n{one}"));
    run(&project, &[]);
    settle(&project);
    assert_eq!(project.run(&["other.toml"]), (0, 1));
    assert_eq!(project.run(&["other.toml", "--force", "one"]), (1, 0));
    let (told, short) = run(&project, &[]);
    assert!(!short && told.contains("1 executed, 1 cached"), "{told}");
    settle(&project);
}

#[test]
fn a_memo_that_is_damaged_or_no_longer_fits_only_costs_time() {
    let project = project();
    run(&project, &[]);
    let memo = || memo(&project);
    let bytes = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(memo()).unwrap();
        change(&mut bytes);
        std::fs::write(memo(), bytes).unwrap();
    };
    let spoils: [(&str, &dyn Fn()); 6] = [
        ("flipped", &|| bytes(&|bytes| *bytes.last_mut().unwrap() ^= 1)),
        ("torn", &|| bytes(&|bytes| bytes.truncate(bytes.len() / 2))),
        ("empty", &|| bytes(&Vec::clear)),
        ("gone", &|| std::fs::remove_file(memo()).unwrap()),
        ("touched source", &|| project.write("src/one", "first\n")),
        ("names of results gone", &|| std::fs::remove_dir_all(project.path("outputs/latest")).unwrap()),
    ];
    for (what, spoil) in spoils {
        settle(&project);
        spoil();
        let (told, short) = run(&project, &[]);
        assert!(!short && told.starts_with("nothing to do: 2 cached stages"), "{what}: {told}");
    }
    assert!(project.path("outputs/latest/memo/one/one").exists());
    // An index that is damaged is told of here too, once.
    settle(&project);
    project.write("outputs/objects-v1/index", "rubbish");
    let (told, _) = run(&project, &[]);
    assert!(told.contains("nothing to do") && told.matches("index is damaged").count() == 1, "{told}");
    let (told, _) = run(&project, &[]);
    assert!(told.contains("nothing to do") && !told.contains("index"), "{told}");
}

#[test]
fn a_manifest_from_a_pipe_is_read_once() {
    let project = project();
    let shell = |script: &str| {
        let mut command = std::process::Command::new("sh");
        let anneal = project.command(&[]).get_program().to_owned();
        command.args(["-c", script, "sh"]).arg(anneal).current_dir(project.path(""));
        project.outcome(command)
    };
    for _ in 0..2 {
        let piped = shell("cat memo.toml | \"$1\" run /dev/stdin --root . --color never");
        assert_eq!(piped.code, Some(0), "{piped:?}");
    }
    assert!(run(&project, &[]).0.contains("nothing to do: 2 cached stages"));
}

#[test]
fn a_folder_that_gets_a_file_is_seen_behind_a_stage_without_files() {
    let project = Project::new();
    let stage = |name: &str, script: &str, files: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"{script} > $OUT/x\"]\nenv = {{ OUT = \"{{out}}\" }}\n{files}\n"
        )
    };
    let two = stage("two", "ls data; echo", "files = [\"data\"]");
    project.write("memo.toml", format!("[experiment]\nname = \"memo\"\n{}{two}", stage("one", "echo one", "")));
    std::fs::create_dir(project.path("data")).unwrap();
    for _ in 0..3 {
        run(&project, &[]);
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    project.write("data/new", "x");
    let (told, _) = run(&project, &[]);
    assert!(told.contains("1 executed, 1 cached"), "{told}");
}

#[test]
fn metrics_of_a_result_that_was_made_again_with_equal_bytes_are_the_new_ones() {
    let project = Project::new();
    let manifest = |name: &str| {
        format!(
            "[experiment]\nname = \"{name}\"\n[stages.one]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"echo hi > {{out}}/x; echo anneal: metric nanos $(date +%s%N)\"]\n"
        )
    };
    project.write("memo.toml", manifest("memo"));
    project.write("other.toml", manifest("other"));
    for _ in 0..3 {
        run(&project, &[]);
        std::thread::sleep(std::time::Duration::from_millis(60));
    }
    assert_eq!(project.run(&["other.toml"]), (0, 1));
    assert_eq!(project.run(&["other.toml", "--force", "one"]), (1, 0));
    let (told, short) = run(&project, &[]);
    let report = project.anneal(&["report", "memo.toml"]).stdout;
    let row = |text: &str| text.lines().find(|line| line.trim_start().starts_with("one ")).map(str::to_owned);
    assert!(!short && row(&told).is_some() && row(&told) == row(&report), "{told}{report}");
}
