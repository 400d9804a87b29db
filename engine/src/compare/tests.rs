//! What is found to differ, from two records made by hand; and records as crashes, later versions and people leave them.
use super::*;
use serde_json::json;
use std::path::Path;

fn digest(byte: u8) -> Digest {
    Digest::new([byte; 32])
}

/// A stage that is done: its key, its output, and one metric.
fn done(name: &str, key: u8, output: u8, metric: &str, value: f64) -> Row {
    Row {
        name: name.to_owned(),
        kind: "train".to_owned(),
        outcome: "executed".to_owned(),
        key: Some(digest(key)),
        output: Some(digest(output)),
        seconds: Some(2.0),
        peak_mib: Some(100.0),
        metrics: [(metric.to_owned(), value)].into(),
        ..Row::default()
    }
}

fn failed(name: &str, class: &str) -> Row {
    let (outcome, why) = ("failed".to_owned(), Some("it was killed".to_owned()));
    Row { name: name.to_owned(), outcome, class: Some(class.to_owned()), why, ..Row::default() }
}

fn run(id: &str, resolved: Value, stages: Vec<Row>) -> Run {
    let mut run = Run::new(id.to_owned(), "runs".into(), serde_json::from_value(resolved).ok());
    run.stages = stages;
    run
}

fn resolved(root: &str, steps: u32) -> Value {
    json!({
        "experiment": "x", "seed": 7, "numerics": "cpu-f32", "root": root,
        "stages": {
            "base": { "kind": "load", "version": 1, "params": { "model": format!("{root}/model"), "init": { "width": 8 } } },
            "lora": {
                "kind": "train", "version": 1, "inputs": { "model": "base" }, "options": { "keep": "all" },
                "params": { "max_steps": steps, "targets": ["q", "v"] },
            },
            "score": { "kind": "evaluate", "version": 1, "inputs": { "answers": "lora" } },
        },
    })
}

fn base() -> Run {
    let stages = vec![
        done("base", 1, 1, "parameters", 50_000.0),
        done("lora", 2, 2, "train_loss", 2.5),
        done("score", 3, 3, "em", 40.0),
    ];
    run("a", resolved("/one", 8), stages)
}

/// No store to look a reason up in.
fn nowhere(_: &Run, _: &Digest) -> Option<Value> {
    None
}

/// Every list of the comparison that is not empty, an item a line.
fn told(base: &Run, run: &Run) -> String {
    let Value::Object(all) = json!(compare(base, run, &nowhere)) else { return String::new() };
    let mut text = String::new();
    for (name, value) in all.iter().filter(|(_, value)| value.as_array().is_some_and(|list| !list.is_empty())) {
        text += &format!("{name}\n");
        value.as_array().into_iter().flatten().for_each(|item| text += &format!("  {item}\n"));
    }
    text.replace(&digest(2).to_string(), "[2]")
        .replace(&digest(3).to_string(), "[3]")
        .replace(&digest(9).to_string(), "[9]")
}

#[test]
fn a_run_does_not_differ_from_itself_nor_from_one_in_another_checkout() {
    assert_eq!(told(&base(), &base()), "");
    assert!(compare(&base(), &base(), &nowhere).is_empty());
    let elsewhere = run("b", resolved("/two/deep", 8), base().stages);
    assert_eq!(told(&base(), &elsewhere), "");
    // Found instead of executed is the same.
    let mut cached = base();
    cached.stages.iter_mut().for_each(|row| row.outcome = "cached".to_owned());
    assert_eq!(told(&base(), &cached), "");
}

#[test]
fn a_parameter_reaches_the_results() {
    let stages = vec![
        done("base", 1, 1, "parameters", 50_000.0),
        Row { seconds: Some(1.5), ..done("lora", 9, 9, "train_loss", 2.75) },
        done("score", 9, 3, "em", 40.0),
    ];
    insta::assert_snapshot!(told(&base(), &run("b", resolved("/one", 6), stages)), @r#"
    parameters
      {"stage":"lora","name":"max_steps","old":"8","new":"6"}
    results
      {"stage":"lora","metric":"train_loss","old":2.5,"new":2.75,"difference":0.25,"percent":10.0}
      {"stage":"lora","metric":"seconds","old":2.0,"new":1.5,"difference":-0.5,"percent":-25.0}
    keys
      {"stage":"lora","old":"[2]","new":"[9]","first":{"path":"params.max_steps","old":"8","new":"6"},"more":0,"same_output":false}
      {"stage":"score","old":"[3]","new":"[9]","first":{"path":"inputs.answers","old":"\"[2]\"","new":"\"[9]\""},"more":0,"same_output":true}
    "#);
}

#[test]
fn the_document_says_more_than_the_parameters() {
    let mut now = base();
    now.stages[1] = done("lora", 9, 2, "train_loss", 2.5);
    let documents = |_: &Run, key: &Digest| {
        let file = if *key == digest(9) { digest(8) } else { digest(7) };
        Some(json!({ "params": {}, "inputs": { "model": "x" }, "sources": [{ "name": "train", "digest": file }] }))
    };
    let all = compare(&base(), &now, &documents);
    let change = all.keys.first().unwrap();
    let first = change.first.as_ref().unwrap();
    assert_eq!((first.path.as_str(), change.more, change.same_output), ("sources.train", 0, true));
    // Without it nobody knows.
    assert_eq!(compare(&base(), &now, &nowhere).keys[0].first, None);
}

#[test]
fn stages_come_go_fail_and_are_connected_otherwise() {
    let mut asked = resolved("/one", 8);
    asked["stages"]["fft"] = json!({ "kind": "train-fft", "version": 1, "inputs": { "model": "base" } });
    asked["stages"]["score"]["inputs"]["answers"] = json!("fft");
    asked["stages"].as_object_mut().unwrap().shift_remove("base");
    asked["seed"] = json!(8);
    let skipped = Row { outcome: "skipped".to_owned(), why: Some("lora".to_owned()), ..done("score", 3, 3, "em", 0.0) };
    let rows = vec![failed("lora", "oom"), Row { output: None, ..skipped }, done("fft", 5, 5, "train_loss", 1.0)];
    insta::assert_snapshot!(told(&base(), &run("b", asked, rows)), @r#"
    parameters
      {"stage":null,"name":"seed","old":"7","new":"8"}
    stages
      {"stage":"fft","kind":"train-fft","added":true}
      {"stage":"base","kind":"load","added":false}
    inputs
      {"stage":"score","port":"answers","old":"lora","new":"fft"}
    states
      {"stage":"lora","old":"done","new":"oom","why":"it was killed"}
      {"stage":"score","old":"done","new":"skipped, lora failed"}
    "#);
}

#[test]
fn equal_keys_with_other_bytes_are_told() {
    let mut now = base();
    now.stages[2] = done("score", 3, 4, "em", 40.0);
    assert_eq!(compare(&base(), &now, &nowhere).outputs, ["score"]);
}

#[test]
fn a_sweep_is_compared_cell_by_cell() {
    let sweep = |values: &[u32]| {
        let mut asked = resolved("/one", 8);
        let cells: Vec<Value> =
            values.iter().enumerate().map(|(i, value)| json!([format!("lora[rank={value}]"), [[0, i]]])).collect();
        let scores: Vec<Value> = values
            .iter()
            .enumerate()
            .map(|(i, value)| json!([format!("score[lora.rank={value}]"), [[0, i]]]))
            .collect();
        asked["axes"] = json!([{ "key": "lora.rank", "stage": "lora", "values": values }]);
        asked["instances"] = json!({ "lora": cells, "score": scores });
        asked
    };
    let rows = |keys: u8, values: &[u32]| -> Vec<Row> {
        let row = |value: &u32| {
            let (name, output) = (format!("lora[rank={value}]"), keys + *value as u8);
            [
                done(&name, output, output, "train_loss", f64::from(*value)),
                done(&format!("score[lora.rank={value}]"), output, 50, "em", 1.0),
            ]
        };
        values.iter().flat_map(row).collect()
    };
    let (old, mut new) = (run("a", sweep(&[2, 4]), rows(10, &[2, 4])), run("b", sweep(&[4, 8]), rows(10, &[4, 8])));
    insta::assert_snapshot!(told(&old, &new), @r#"
    parameters
      {"stage":"lora","name":"rank","old":"each of 2, 4","new":"each of 4, 8"}
    stages
      {"stage":"lora[rank=8]","kind":"train","added":true}
      {"stage":"score[lora.rank=8]","kind":"train","added":true}
      {"stage":"lora[rank=2]","kind":"train","added":false}
      {"stage":"score[lora.rank=2]","kind":"train","added":false}
    "#);
    // One cell that changed reaches its own score and no other.
    new.stages = rows(10, &[4, 8]);
    new.stages[0].output = Some(digest(77));
    new.stages[1].key = Some(digest(78));
    let all = compare(&old, &new, &nowhere);
    assert_eq!(all.keys.len(), 1);
    assert_eq!(all.keys[0].first.as_ref().unwrap().path, "inputs.answers");
    // And where all of it was one stage before.
    let single = compare(&base(), &new, &nowhere);
    let rank: Vec<_> = single.parameters.iter().map(|p| (p.name.as_str(), p.new.as_deref())).collect();
    assert_eq!(rank, [("rank", Some("each of 4, 8"))]);
}

#[test]
fn numbers_are_written_as_in_the_report_and_never_look_equal() {
    let change = |metric: &str, old: f64, new: f64| {
        let measured = Measured::new("s", metric, Some(old), Some(new));
        let text = |value: f64| measured.format().text(value);
        format!("{} {} {}", text(old), text(new), measured.change().unwrap_or_default())
    };
    let lines = [
        change("train_loss", 2.5, 2.25),
        change("train_loss", 2.5, 2.500_001),
        change("tokens_per_second", 10_000.0, 12_500.0),
        change("em", 0.0, 12.5),
        change("em", -2.0, -3.0),
        change("parameters", 1_000_000.0, 2_000_000.0),
        change("other", 0.5, 0.25),
        change("seconds", 1.0, 1.04),
        change("other", 1e-12, 2e-12),
    ];
    insta::assert_snapshot!(lines.join("\n"), @r"
    2.5000 2.2500 -0.2500 (-10.0%)
    2.500000 2.500001 +0.000001 (+0.0%)
    10,000 12,500 +2,500 (+25.0%)
    0.00 12.50 +12.50
    -2.00 -3.00 -1.00 (-50.0%)
    1,000,000 2,000,000 +1,000,000 (+100.0%)
    0.50 0.25 -0.25 (-50.0%)
    1.00 1.04 +0.04 (+4.0%)
    0.000000000001 0.000000000002 +0.000000000001 (+100.0%)
    ");
}

/// A folder of runs with these names, each with the files given.
fn outputs(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        let folder = dir.path().join("runs").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("resolved.json"), resolved("/one", 8).to_string()).unwrap();
    }
    dir
}

#[test]
fn runs_are_found_by_what_people_call_them() {
    let (a, b, c) =
        ("20260101-000000-000-tiny-aaaa", "20260102-000000-000-my-tiny-bbbb", "20260103-000000-000-tiny-cccc");
    let dir = outputs(&[a, c, b]);
    let name = |word: &str, experiment: Option<&str>| match find(dir.path(), word, experiment) {
        Ok(path) => path.file_name().unwrap().to_string_lossy().into_owned(),
        Err(failure) => format!("{failure}; {}", failure.hint.clone().unwrap_or_default())
            .replace(&dir.path().display().to_string(), "[DIR]"),
    };
    for (word, experiment, id) in [
        ("latest", None, c),
        ("previous", None, b),
        ("previous", Some("tiny"), a),
        ("latest", Some("my-tiny"), b),
        (a, None, a),
        ("20260102", None, b),
        ("cccc", None, c),
    ] {
        assert_eq!(name(word, experiment), id, "{word}");
    }
    let path = dir.path().join("runs").join(a);
    assert_eq!(find(Path::new("/nowhere"), path.to_str().unwrap(), None).unwrap(), path);
    let wrong = [
        name("2026010", None),
        name("20260101-000000-000-tiny-aaab", None),
        name("qqqq", None),
        name("", None),
        name("previous", Some("my-tiny")),
        name("latest", Some("other")),
    ];
    insta::assert_snapshot!(wrong.join("\n"), @r"
    `2026010` is a part of the names of 3 runs; say more of it: 20260103-000000-000-tiny-cccc, 20260102-000000-000-my-tiny-bbbb, 20260101-000000-000-tiny-aaaa
    there is no run `20260101-000000-000-tiny-aaab` in [DIR]/runs; did you mean 20260101-000000-000-tiny-aaaa?
    there is no run `qqqq` in [DIR]/runs; the newest are 20260103-000000-000-tiny-cccc, 20260102-000000-000-my-tiny-bbbb, 20260101-000000-000-tiny-aaaa; `latest` and `previous` are runs too
    there is no run `` in [DIR]/runs; the newest are 20260103-000000-000-tiny-cccc, 20260102-000000-000-my-tiny-bbbb, 20260101-000000-000-tiny-aaaa; `latest` and `previous` are runs too
    there is no `previous` run: [DIR]/runs has only one run of the experiment `my-tiny`; `anneal run` records a run whenever it has something to do; --outputs DIR names another folder
    there is no `latest` run: [DIR]/runs has no run of the experiment `other`; `anneal run` records a run whenever it has something to do; --outputs DIR names another folder
    ");
    let empty = tempfile::tempdir().unwrap();
    assert!(find(empty.path(), "latest", None).is_err() && find(empty.path(), "x", None).is_err());
}

#[test]
fn a_run_without_a_summary_is_told_from_its_events() {
    let dir = outputs(&["a"]);
    let folder = dir.path().join("runs/a");
    let key = digest(1);
    let events = format!(
        r#"{{"time":1.0,"event":{{"type":"run-started","run":"a","experiment":"x","stages":3}}}}
{{"time":1.0,"stage":"base","event":{{"type":"stage-cached","key":"{key}","output":"{key}"}}}}
{{"time":1.0,"stage":"lora","event":{{"type":"stage-started","key":"{key}","pid":1,"reasons":[]}}}}
{{"time":1.0,"stage":"lora","event":{{"type":"of-a-later-version","x":1}}}}
{{"time":1.0,"stage":"lora","event":{{"type":"stage-finished","key":"{key}","output":"{key}","seconds":1.5,"peak_mib":null,"metrics":{{"train_loss":2.5}}}}}}
{{"time":1.0,"stage":"score","event":{{"type":"stage-started","key":"{key}","pid":1,"reasons":[]}}}}
{{"time":1.0,"stage":"score","ev"#
    );
    std::fs::write(folder.join("events.jsonl"), events).unwrap();
    let found = load(&folder).unwrap();
    let states: Vec<_> = found.stages.iter().map(|row| (row.name.as_str(), row.kind.as_str(), row.state())).collect();
    let cut = "cut off".to_owned();
    assert_eq!(
        states,
        [("base", "load", "done".to_owned()), ("lora", "train", "done".to_owned()), ("score", "evaluate", cut)]
    );
    assert_eq!(found.stages[1].metrics["train_loss"], 2.5);
    assert_eq!(
        found.remarks,
        ["it did not end, or has not yet; what it did until then is compared", "1 of its events cannot be read"]
    );
}

#[test]
fn damaged_and_later_folders_are_read_as_far_as_they_go() {
    let dir = outputs(&["a"]);
    let folder = dir.path().join("runs/a");
    // A later version: words, fields and files that this one does not know.
    let summary = json!({
        "run": "a", "experiment": "x", "colour": "red", "interrupted": false,
        "stages": [{ "name": "lora", "kind": "train", "outcome": "delegated", "to": "somebody", "metrics": { "m": 1 } }],
    });
    std::fs::write(folder.join("summary.json"), summary.to_string()).unwrap();
    let found = load(&folder).unwrap();
    assert_eq!((found.remarks.len(), found.stages[0].state().as_str()), (0, "delegated"));
    // Without parameters the results are still there.
    std::fs::write(folder.join("resolved.json"), "{\"experiment\": ").unwrap();
    let found = load(&folder).unwrap();
    assert_eq!((found.stages.len(), found.experiment.as_str()), (1, "x"));
    assert!(found.remarks[0].starts_with("its resolved.json is damaged ("), "{:?}", found.remarks);
    assert!(compare(&base(), &found, &nowhere).parameters.is_empty());
    // Nothing at all.
    std::fs::write(folder.join("summary.json"), "[").unwrap();
    let failure = load(&folder).unwrap_err();
    assert!(failure.message.contains("is no run that can be read"), "{failure}");
    assert!(failure.hint.is_some());
}
