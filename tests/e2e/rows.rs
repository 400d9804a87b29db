//! Failures as rows: cells that run out of memory or time, become NaN, are killed or fail by themselves; which of these
//! stand, what makes them run again, and what is kept of the others.
use crate::project::{Outcome, Project};
use crate::sweeps::{manifest, noting, project, ran, report, rows};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A stage for each way to fail, and one that does not.
const WAYS: [(&str, &str, &str); 6] = [
    ("fine", "echo 'anneal: metric em 1'", ""),
    ("oom", "python3 -c 'bytearray(400 << 20)'", "memory_limit = \"200 MiB\""),
    ("timeout", "sleep 100", "timeout = 0.3"),
    ("signal", "kill -9 $$", ""),
    ("killed", "kill -9 $PPID; sleep 100", "threads = 1"),
    ("user", "exit 3", ""),
];

fn ways() -> String {
    let stage = |(name, script, options): &(&str, &str, &str)| {
        noting(name, "up = \"up\"", &[], script).trim_end().to_owned() + "\n" + options + "\n\n"
    };
    noting("up", "", &[], "") + &WAYS.iter().map(stage).collect::<String>()
}

/// Python is not everywhere.
fn python() -> bool {
    let there = std::process::Command::new("python3").arg("--version").output().is_ok();
    if !there {
        println!("skipped: there is no python3 here");
    }
    there
}

fn run(project: &Project, args: &[&str]) -> Outcome {
    project.anneal(&[&["run", "--json", "s.toml"], args].concat())
}

/// Class of failure of every row, by stage.
fn classes(project: &Project) -> BTreeMap<String, Value> {
    let name = |row: &Value| row["stage"].as_str().unwrap().to_owned();
    rows(project, &[]).iter().map(|row| (name(row), row["status"]["why"]["class"].clone())).collect()
}

#[test]
fn every_way_to_fail_is_a_row_and_some_stand() {
    if !python() {
        return;
    }
    let project = project(&ways());
    let outcome = run(&project, &[]);
    assert_eq!(outcome.code, Some(1), "an unlike mixture: {outcome:?}");
    assert_eq!(ran(&project).len(), 1 + WAYS.len());
    let expected = [("fine", Value::Null), ("killed", json!("signal"))].into_iter();
    let expected = expected.chain(["oom", "signal", "timeout", "user"].map(|name| (name, json!(name))));
    let expected: BTreeMap<String, Value> = expected.map(|(name, class)| (name.to_owned(), class)).collect();
    assert_eq!(classes(&project), expected, "{:#}", report(&project, &[]));
    let all = rows(&project, &[]);
    let row = |name: &str| all.iter().find(|row| row["stage"] == name).unwrap();
    for name in ["oom", "timeout", "killed"] {
        assert!(row(name)["values"]["peak_mib"].as_f64().is_some_and(|peak| peak > 0.0), "{:#}", row(name));
        assert!(row(name)["values"]["train_seconds"].is_number(), "{:#}", row(name));
    }
    // What would only repeat is not tried again; what may go well is.
    assert_eq!(run(&project, &[]).code, Some(1));
    assert_eq!(ran(&project), ["killed", "signal", "user"]);
    assert_eq!(classes(&project), expected);
    // Unless its limits change ...
    run(&project, &["--set", "oom.memory_limit=250 MiB"]);
    assert_eq!(ran(&project), ["killed", "oom", "signal", "user"]);
    run(&project, &["--set", "oom.memory_limit=250 MiB", "--set", "timeout.timeout=0.4"]);
    assert_eq!(ran(&project), ["killed", "signal", "timeout", "user"]);
    // ... or somebody asks. A limit that is enough makes it a result.
    let both = ["--set", "oom.memory_limit=250 MiB", "--set", "timeout.timeout=0.4"];
    run(&project, &[&both[..], &["--retry", "timeout,nan"]].concat());
    assert_eq!(ran(&project), ["killed", "signal", "timeout", "user"]);
    run(&project, &[&both[..], &["--force", "oom"]].concat());
    assert_eq!(ran(&project), ["killed", "oom", "signal", "user"]);
    run(&project, &["--retry", "oom", "--only", "oom", "--set", "oom.memory_limit=2 GiB"]);
    assert_eq!(ran(&project), ["oom"]);
    assert_eq!(project.run(&["s.toml", "--only", "oom"]), (0, 2), "a result has no limits");
}

#[test]
fn a_training_that_becomes_nan_is_a_row_with_its_last_step() {
    let project = Project::new();
    let text = project.read("tiny.toml");
    project.write("s.toml", text + "\n[sweep.grid]\n\"lora.adam_epsilon\" = [1e-8, 0.0]\n");
    let outcome = run(&project, &["--only", "lora"]);
    assert_eq!(outcome.code, Some(6), "{outcome:?}");
    let stages = report(&project, &[])["stages"].as_array().unwrap().clone();
    let stage = |name: &str| stages.iter().find(|stage| stage["name"] == name).unwrap().clone();
    let lost = stage("lora[adam_epsilon=0.0]");
    assert_eq!(lost["status"]["why"]["class"], "nan", "{lost:#}");
    assert_eq!(lost["last_step"], 1, "{lost:#}");
    assert!(lost["peak_mib"].as_f64().is_some_and(|peak| peak > 1.0), "{lost:#}");
    assert_eq!(stage("lora[adam_epsilon=1e-8]")["status"]["state"], "done");
    // The rows of what would have used it say why there is nothing.
    let all = rows(&project, &["--filter", "state=nan"]);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all.iter().all(|row| row["values"]["last_step"] == 1.0), "{all:#?}");
    // It stands, whatever the limits.
    let executed = |args: &[&str]| {
        let last = run(&project, &[&["--only", "lora"], args].concat()).events().pop().unwrap();
        last["event"]["executed"].as_u64().unwrap() + last["event"]["failed"].as_u64().unwrap() * 10
    };
    assert_eq!(executed(&["--set", "lora.timeout=1000"]), 10);
    let started = |outcome: &Outcome| outcome.stdout.matches("\"stage-started\"").count();
    assert_eq!(started(&run(&project, &["--only", "lora"])), 0);
    assert_eq!(started(&run(&project, &["--only", "lora", "--retry", "nan"])), 1);
}

#[test]
fn a_training_out_of_time_goes_on_when_it_gets_more() {
    let project = Project::new();
    project.write("s.toml", project.read("tiny.toml"));
    // Never done, on any machine.
    let args = ["--only", "lora", "--set", "lora.timeout=4", "--set", "lora.max_steps=100000000"];
    let outcome = run(&project, &args);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let lost = |project: &Project| {
        let stages = report(project, &args[2..])["stages"].as_array().unwrap().clone();
        let lora = stages.iter().find(|stage| stage["name"] == "lora").unwrap();
        assert_eq!(lora["status"]["why"]["class"], "timeout", "{lora:#}");
        lora["last_step"].as_u64().unwrap()
    };
    let first = lost(&project);
    assert!(first > 0);
    let again = run(&project, &[&args[..], &["--retry", "timeout"]].concat());
    let resumed = again.events().into_iter().find(|event| event["event"]["resumed"] == true);
    assert_eq!(resumed.unwrap()["event"]["step"], first, "it was asked to end, so it wrote a checkpoint");
    assert!(lost(&project) > first);
}

#[test]
fn a_cell_that_fails_stops_no_other() {
    let stages = noting("up", "", &[], "")
        + &noting("work", "up = \"up\"", &["X"], "test $X != 2")
        + &noting("score", "work = \"work\"", &[], "echo 'anneal: metric em 1'")
        + "[sweep.grid]\n\"work.env.X\" = [\"1\", \"2\", \"3\", \"4\"]\n";
    let project = project(&stages);
    let outcome = run(&project, &["--jobs", "1"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert_eq!(ran(&project).len(), 1 + 4 + 3);
    let all = rows(&project, &[]);
    let states: Vec<&str> = all.iter().map(|row| row["status"]["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["done", "failed", "done", "done"]);
    assert_eq!(all[1]["status"]["why"]["class"], "user");
    // With --fail-fast the first failure is the last thing that happens.
    let other = Project::new();
    manifest(&other, &stages);
    assert_eq!(run(&other, &["--jobs", "1", "--fail-fast"]).code, Some(3));
    assert!(!ran(&other).contains(&"work X=3".to_owned()));
}

#[test]
fn of_a_hundred_cells_thirty_run_out_of_memory_once() {
    if !python() {
        return;
    }
    let cells: Vec<String> = (0..100).map(|cell| format!("\"{cell}\"")).collect();
    let script = "test $X -lt 70 || python3 -c 'bytearray(400 << 20)' && echo \"anneal: metric em $X\"";
    let stages = noting("work", "", &["X"], script).trim_end().to_owned()
        + &format!("\nmemory_limit = \"200 MiB\"\n[sweep.grid]\n\"work.env.X\" = [{}]\n", cells.join(", "));
    let project = project(&stages);
    let outcome = run(&project, &[]);
    assert_eq!(outcome.code, Some(5), "{}", outcome.stderr);
    assert_eq!(ran(&project).len(), 100);
    let all = rows(&project, &[]);
    let with = |state: &str| all.iter().filter(|row| row["status"]["state"] == state).count();
    assert_eq!((all.len(), with("done"), with("failed")), (100, 70, 30));
    assert_eq!(rows(&project, &["--filter", "state=oom"]).len(), 30);
    let again = run(&project, &[]);
    assert_eq!((again.code, ran(&project).len()), (Some(5), 0));
    let last = again.events().pop().unwrap();
    assert_eq!((&last["event"]["cached"], &last["event"]["failed"]), (&json!(70), &json!(30)));
}

#[test]
fn larger_cells_than_one_out_of_memory_are_not_tried() {
    let stages = r#"
[stages.data]
kind = "load"
dataset = { train = "train.json", eval = "eval.json" }

[stages.base]
kind = "load"
inputs = { dataset = "data" }
init = { vocab_size = 400, hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, num_attention_heads = 4 }
memory_limit = "400 MiB"

[sweep]
assume_monotone = "hidden_size"

[sweep.grid]
"base.init.hidden_size" = [65536, 32, 16384, 32768]
"base.init.num_hidden_layers" = [1, 2]
"#;
    let project = project(stages);
    // The smaller first, one after the other.
    let outcome = run(&project, &["--jobs", "1"]);
    assert_eq!(outcome.code, Some(5), "{outcome:?}");
    let started = |outcome: &Outcome| outcome.stdout.matches("\"stage-started\"").count();
    assert_eq!(started(&outcome), 1 + 4, "{}", outcome.stdout);
    let states = || {
        let stages = report(&project, &[])["stages"].as_array().unwrap().clone();
        let of = |stage: &Value| match &stage["status"]["why"]["inferred"] {
            Value::Bool(true) => "inferred".to_owned(),
            _ => stage["status"]["why"]["class"]
                .as_str()
                .unwrap_or(stage["status"]["state"].as_str().unwrap())
                .to_owned(),
        };
        stages[1..].iter().map(of).collect::<Vec<String>>()
    };
    let expected = ["inferred", "done", "oom", "inferred"].iter().flat_map(|state| [*state; 2]).collect::<Vec<_>>();
    assert_eq!(states(), expected);
    let table = project.anneal(&["report", "s.toml"]).stdout;
    assert_eq!(table.matches("oom (inferred)").count(), 3 * 4, "{table}");
    // It holds for the next run, which tries nothing.
    let again = run(&project, &[]);
    assert_eq!((again.code, started(&again)), (Some(5), 0), "{}", again.stdout);
    assert_eq!(states(), expected);
}

#[test]
fn of_metrics_alone_the_files_go_and_come_back_when_needed() {
    let big = noting("big", "", &["X"], "head -c 100000 /dev/zero > \"$ANNEAL_OUT/zeros\"; echo 'anneal: metric em 4'");
    let big = big.trim_end().to_owned() + "\nkeep = \"metrics\"\n\n";
    let first = noting("first", "big = \"big\"", &[], "wc -c < \"$ANNEAL_INPUT_BIG/zeros\" > \"$ANNEAL_OUT/n\"");
    let second = noting("second", "big = \"big\"", &[], "cat \"$ANNEAL_INPUT_BIG/zeros\" > \"$ANNEAL_OUT/n\"");
    let sweep = "[sweep.grid]\n\"big.env.X\" = [\"1\", \"2\"]\n";
    let project = project(&(big.clone() + &first + sweep));
    assert_eq!(project.run(&["s.toml"]), (4, 0));
    assert_eq!(ran(&project), ["big X=1", "big X=2", "first", "first"]);
    let before = project.digests(&["s.toml"]);
    let tree = |name: &str, digests: &BTreeMap<String, String>| {
        project.path(&format!("outputs/objects-v1/trees/{}", digests[name])).exists()
    };
    assert!(!tree("big[env.X=1]", &before) && !tree("big[env.X=2]", &before) && tree("first[big.env.X=1]", &before));
    // No name leads nowhere.
    assert!(project.path("outputs/latest/s/big[env.X=1]").symlink_metadata().is_err());
    let stages = report(&project, &[])["stages"].as_array().unwrap().clone();
    assert_eq!((&stages[0]["status"]["state"], &stages[0]["metrics"]["em"]), (&json!("done"), &json!(4.0)));
    assert_eq!(project.run(&["s.toml"]), (0, 4));
    // A new stage needs the files of one cell: they are made once more, the same to the byte.
    manifest(&project, &(big.clone() + &first + &second + sweep));
    project.run(&["s.toml", "--cell", "env.X=2"]);
    assert_eq!(ran(&project), ["big X=2", "second"]);
    let after = project.digests(&["s.toml"]);
    assert!(before.iter().all(|(name, digest)| after[name] == *digest), "{before:?} {after:?}");
    assert!(!tree("big[env.X=2]", &after));
    let copy = std::fs::read(project.artifact("s", "second[big.env.X=2]").join("n")).unwrap();
    assert_eq!(copy, vec![0; 100_000]);
    // Kept from now on: the stage runs once more, for its files.
    manifest(&project, &(big.replace("keep = \"metrics\"", "keep = \"all\"") + &first + sweep));
    project.run(&["s.toml"]);
    assert_eq!(ran(&project), ["big X=1", "big X=2"]);
    assert!(tree("big[env.X=1]", &project.digests(&["s.toml"])));
    assert_eq!(project.run(&["s.toml"]), (0, 4));
}

#[test]
fn equal_files_that_nobody_keeps_are_no_loss() {
    // Several at once that make the same bytes; each takes them along when it ends.
    let big = noting("big", "", &["X"], "echo same > \"$ANNEAL_OUT/out\"; echo 'anneal: metric em 1'");
    let cells: Vec<String> = (0..24).map(|cell| format!("\"{cell}\"")).collect();
    let sweep = format!("[sweep.grid]\n\"big.env.X\" = [{}]\n", cells.join(", "));
    for options in ["keep = \"metrics\"\n", "keep = \"metrics\"\nthreads = 1\n"] {
        let project = project(&(big.trim_end().to_owned() + "\n" + options + &sweep));
        assert_eq!(project.run(&["s.toml", "--jobs", "8"]), (24, 0));
        assert_eq!(rows(&project, &["--filter", "state=done"]).len(), 24);
        assert_eq!(std::fs::read_dir(project.path("outputs/objects-v1/trees")).unwrap().count(), 0);
        assert_eq!(project.run(&["s.toml"]), (0, 24));
    }
}

#[test]
fn a_stage_that_makes_what_its_input_was_keeps_it_while_it_is_needed() {
    let same = |name: &str, inputs: &str| {
        let stage = noting(name, inputs, &[], "echo same > \"$ANNEAL_OUT/out\"; echo 'anneal: metric em 1'");
        stage.trim_end().to_owned() + "\nkeep = \"metrics\"\n\n"
    };
    let stages = same("up", "") + &same("same", "up = \"up\"") + &noting("work", "same = \"same\"", &["X"], "");
    let project = project(&(stages + "[sweep.grid]\n\"work.env.X\" = [\"0\", \"1\"]\n"));
    assert_eq!(project.run(&["s.toml"]), (4, 0));
    assert_eq!(ran(&project), ["same", "up", "work X=0", "work X=1"]);
    // The files of one are those of the other.
    assert_eq!(project.run(&["s.toml", "--set", "work.env.Y=1"]), (3, 1));
    assert_eq!(ran(&project), ["up", "work X=0", "work X=1"]);
}

#[test]
fn a_stage_that_keeps_its_files_keeps_them_beside_one_of_its_key_that_does_not() {
    let stage = |name: &str, keep: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\n{keep}\
             command = [\"sh\", \"-c\", \"echo x >> $ANNEAL_ROOT/log; echo x > $ANNEAL_OUT/out; echo anneal: metric em 1\"]\n\n"
        )
    };
    let project = project(&(stage("a", "keep = \"metrics\"\n") + &stage("b", "")));
    assert_eq!(project.run(&["s.toml"]), (1, 1));
    assert_eq!(std::fs::read_to_string(project.artifact("s", "b").join("out")).unwrap(), "x\n");
    assert_eq!(project.run(&["s.toml"]), (0, 2));
    assert_eq!(ran(&project).len(), 1);
}
