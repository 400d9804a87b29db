//! What people read of a run that did not begin yet: `plan` and `explain`, before and after changes.
mod sweeps;

use crate::project::{Cases, Project};
use serde_json::Value;

const CHAIN: &str = r#"[experiment]
name = "c"
seed = 11

[stages.raw]
kind = "command"
command = ["sh", "-c", "cat data.txt > {out}/raw; echo $COUNT >> {out}/raw"]
files = ["data.txt"]
env = { COUNT = "1" }

[stages.clean]
kind = "command"
inputs = { raw = "raw" }
command = ["sh", "-c", "sort {input:raw}/raw > {out}/clean"]

[stages.counted]
kind = "command"
inputs = { text = "clean" }
command = ["sh", "-c", "wc {input:text}/clean > {out}/counts"]
"#;

fn project(manifest: &str) -> Project {
    let project = Project::new();
    project.write("c.toml", manifest);
    project.write("data.txt", "some\nwords\n");
    project
}

/// What a command prints.
#[track_caller]
fn told(project: &Project, args: &[&str]) -> String {
    let outcome = project.anneal(args);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.filtered(&outcome.stdout)
}

fn plan(project: &Project, args: &[&str]) -> String {
    told(project, &[&["plan", "c.toml"], args].concat())
}

#[test]
fn a_plan_names_the_first_cause_of_every_stage() {
    let project = project(CHAIN);
    let mut cases = Cases::default();
    cases.add("nothing ran yet", plan(&project, &[]));
    assert_eq!(project.run(&["c.toml"]), (3, 0));
    cases.add("all is there", plan(&project, &[]));
    cases.add("another value", plan(&project, &["--set", "raw.env.COUNT=2"]));
    cases.add("two values", plan(&project, &["--set", "raw.env.COUNT=2", "--set", "counted.env.LANG=C"]));
    cases.add("another seed", plan(&project, &["--set", "experiment.seed=12"]));
    cases.add("forced", plan(&project, &["--force", "clean"]));
    cases.add("only", plan(&project, &["--only", "clean", "--set", "raw.env.COUNT=2"]));
    cases.add("another stage", plan(&project, &["--set", "counted.inputs.text=raw"]));
    project.write("data.txt", "other\nwords\n");
    cases.add("another file", plan(&project, &[]));
    insta::assert_snapshot!(cases, @r#"
    ## nothing ran yet
    raw      run: never ran here
    clean    after raw: never ran here
    counted  after clean: never ran here

    3 stages: 0 cached, 1 to run, 2 after these

    ## all is there
    raw      cached
    clean    cached
    counted  cached

    3 stages: 3 cached, 0 to run, 0 after these

    ## another value
    raw      run: params.env.COUNT: "1" -> "2"
    clean    after raw: upstream `raw`: params.env.COUNT: "1" -> "2"
    counted  after clean: upstream `raw`: params.env.COUNT: "1" -> "2"

    3 stages: 0 cached, 1 to run, 2 after these

    ## two values
    raw      run: params.env.COUNT: "1" -> "2"
    clean    after raw: upstream `raw`: params.env.COUNT: "1" -> "2"
    counted  after clean
               upstream `raw`: params.env.COUNT: "1" -> "2"
               also params.env.LANG: (absent) -> "C"

    3 stages: 0 cached, 1 to run, 2 after these

    ## another seed
    raw      run: seed: 11 -> 12
    clean    after raw: upstream `raw`: seed: 11 -> 12
    counted  after clean: upstream `raw`: seed: 11 -> 12

    3 stages: 0 cached, 1 to run, 2 after these

    ## forced
    raw      cached
    clean    run: asked for with --force
    counted  after clean: upstream `clean`: asked for with --force

    3 stages: 1 cached, 1 to run, 1 after these

    ## only
    raw    run: params.env.COUNT: "1" -> "2"
    clean  after raw: upstream `raw`: params.env.COUNT: "1" -> "2"

    2 stages: 0 cached, 1 to run, 1 after these

    ## another stage
    raw      cached
    clean    cached
    counted  run: inputs.text: `clean` -> `raw` (another stage)

    3 stages: 2 cached, 1 to run, 0 after these

    ## another file
    raw      run: sources.data.txt: [DIGEST] -> [DIGEST]
    clean    after raw: upstream `raw`: sources.data.txt: [DIGEST] -> [DIGEST]
    counted  after clean: upstream `raw`: sources.data.txt: [DIGEST] -> [DIGEST]

    3 stages: 0 cached, 1 to run, 2 after these
    "#);
}

#[test]
fn explain_follows_the_chain_to_the_leaf() {
    let project = project(CHAIN);
    let mut cases = Cases::default();
    let explain = |args: &[&str]| told(&project, &[&["explain", "c.toml"], args].concat());
    cases.add("nothing ran yet", explain(&["counted"]));
    project.run(&["c.toml"]);
    cases.add("it is there", explain(&["clean"]));
    cases.add("an upstream changed", explain(&["counted", "--set", "raw.env.COUNT=2"]));
    assert_eq!(project.run(&["c.toml", "--set", "raw.env.COUNT=2", "--only", "raw"]), (1, 0));
    cases.add("that upstream ran", explain(&["clean", "--set", "raw.env.COUNT=2"]));
    cases.add("and something of its own", explain(&["clean", "--set", "raw.env.COUNT=2", "--set", "clean.env.A=b"]));
    insta::assert_snapshot!(cases, @r#"
    ## nothing ran yet
    counted (command): its key holds the content of its inputs, so it is known after clean

    why
      counted  never ran here

    key not known yet
      schema: 1
      kind: command
      version: 1
      seed: 11
      numerics: cpu-f32
      params
        command: ["sh","-c","wc {input:text}/clean > {out}/counts"]
        env: none
        files: none
      inputs
        text: not known yet
      sources: none

    no earlier result to compare with

    ## it is there
    clean (command): its result is in the store: [DIGEST]

    key [DIGEST]
      schema: 1
      kind: command
      version: 1
      seed: 11
      numerics: cpu-f32
      params
        command: ["sh","-c","sort {input:raw}/raw > {out}/clean"]
        env: none
        files: none
      inputs
        raw: [DIGEST]
      sources: none

    nothing changed since its last result

    ## an upstream changed
    counted (command): its key holds the content of its inputs, so it is known after clean

    why
      counted  inputs.text: from `clean`
      clean    inputs.raw: from `raw`
      raw      params.env.COUNT: "1" -> "2"

    key not known yet
      schema: 1
      kind: command
      version: 1
      seed: 11
      numerics: cpu-f32
      params
        command: ["sh","-c","wc {input:text}/clean > {out}/counts"]
        env: none
        files: none
      inputs
        text: not known yet
      sources: none

    changed since its last result
      inputs.text: [DIGEST] -> "not known yet"

    ## that upstream ran
    clean (command): it would run

    why
      clean  inputs.raw: from `raw`
      raw    params.env.COUNT: "1" -> "2"

    key [DIGEST]
      schema: 1
      kind: command
      version: 1
      seed: 11
      numerics: cpu-f32
      params
        command: ["sh","-c","sort {input:raw}/raw > {out}/clean"]
        env: none
        files: none
      inputs
        raw: [DIGEST]
      sources: none

    changed since its last result
      inputs.raw: [DIGEST] -> [DIGEST]

    ## and something of its own
    clean (command): it would run

    why
      clean  inputs.raw: from `raw`
      raw    params.env.COUNT: "1" -> "2"
      clean  also params.env.A: (absent) -> "b"

    key [DIGEST]
      schema: 1
      kind: command
      version: 1
      seed: 11
      numerics: cpu-f32
      params
        command: ["sh","-c","sort {input:raw}/raw > {out}/clean"]
        env
          A: b
        files: none
      inputs
        raw: [DIGEST]
      sources: none

    changed since its last result
      inputs.raw: [DIGEST] -> [DIGEST]
      params.env.A: (absent) -> "b"
    "#);
    let json = told(&project, &["explain", "--json", "c.toml", "counted", "--set", "raw.env.COUNT=2"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["cause"]["leaf"], "params.env.COUNT");
    assert_eq!((&json["cause"]["old"], &json["cause"]["new"]), (&Value::from("1"), &Value::from("2")));
    assert_eq!(json["cause"]["via"], serde_json::json!(["clean", "raw"]));
    assert_eq!(json["state"], "after");
}

#[test]
fn programs_get_every_stage_with_its_cause() {
    let project = project(CHAIN);
    project.run(&["c.toml"]);
    let json = project.anneal(&["plan", "--json", "c.toml", "--set", "clean.env.A=b"]).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    let of =
        |name: &str| json["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == name).unwrap().clone();
    assert_eq!(of("raw")["state"], "cached");
    assert_eq!(of("raw")["output"].as_str().map(str::len), Some(64));
    assert_eq!(of("raw")["cause"], Value::Null);
    let clean = of("clean");
    assert_eq!((&clean["state"], &clean["cause"]["kind"]), (&Value::from("run"), &Value::from("changed")));
    assert_eq!((&clean["cause"]["leaf"], &clean["cause"]["new"]), (&Value::from("params.env.A"), &Value::from("b")));
    assert_eq!(clean["key"].as_str().map(str::len), Some(64));
    assert_eq!(of("counted")["cause"]["via"], serde_json::json!(["clean"]));
    assert_eq!((&of("counted")["state"], &of("counted")["after"][0]), (&Value::from("after"), &Value::from("clean")));
}

#[test]
fn removed_files_and_failures_are_planned_for() {
    let kept = CHAIN.replace("[stages.clean]\n", "[stages.clean]\nkeep = \"metrics\"\n");
    let project = project(&kept);
    project.run(&["c.toml"]);
    let mut cases = Cases::default();
    cases.add("nothing needs them", plan(&project, &[]));
    let set = ["--set", "counted.env.LANG=C"];
    cases.add("something does", plan(&project, &set));
    assert_eq!(project.run(&[&["c.toml"], &set[..]].concat()), (2, 1));
    let set = ["--set", r#"clean.command=["sh", "-c", "sleep 9"]"#, "--set", "clean.timeout=0.1"];
    project.anneal(&[&["run", "c.toml"], &set[..]].concat());
    cases.add("a timeout", plan(&project, &set));
    cases.add("tried again", plan(&project, &[&set[..], &["--retry", "timeout"]].concat()));
    cases.add("another limit", plan(&project, &[&set[..], &["--set", "clean.timeout=60"]].concat()));
    let fails = ["--set", r#"clean.command=["sh", "-c", "exit 3"]"#];
    project.anneal(&[&["run", "c.toml"], &fails[..]].concat());
    cases.add("an error", plan(&project, &fails));
    insta::assert_snapshot!(cases, @r#"
    ## nothing needs them
    raw      cached
    clean    cached
    counted  cached

    3 stages: 3 cached, 0 to run, 0 after these

    ## something does
    raw      cached
    clean    run: its files were removed (keep = "metrics"), and `counted` needs them
    counted  run: params.env.LANG: (absent) -> "C"

    3 stages: 1 cached, 2 to run, 0 after these

    ## a timeout
    raw      cached
    clean    failed before and would again
               timeout: stage `clean` was ended after [TIME], its `timeout`
               to run it again: raise its timeout, or try again with --retry timeout or --force clean
    counted  cannot run: `clean` has no result

    3 stages: 1 cached, 0 to run, 0 after these, 2 stuck

    ## tried again
    raw      cached
    clean    run
               its last attempt failed (timeout): stage `clean` was ended after [TIME], its `timeout`
    counted  after clean
               upstream `clean`: its last attempt failed (timeout): stage `clean` was ended after [TIME], its `timeout`
               also params.env.LANG: "C" -> (absent)

    3 stages: 1 cached, 1 to run, 1 after these

    ## another limit
    raw      cached
    clean    run
               its last attempt failed (timeout): stage `clean` was ended after [TIME], its `timeout`
    counted  after clean
               upstream `clean`: its last attempt failed (timeout): stage `clean` was ended after [TIME], its `timeout`
               also params.env.LANG: "C" -> (absent)

    3 stages: 1 cached, 1 to run, 1 after these

    ## an error
    raw      cached
    clean    run: its last attempt failed (error): stage `clean`: `sh` ended with exit code 3
    counted  after clean
               upstream `clean`: its last attempt failed (error): stage `clean`: `sh` ended with exit code 3
               also params.env.LANG: "C" -> (absent)

    3 stages: 1 cached, 1 to run, 1 after these
    "#);
}
