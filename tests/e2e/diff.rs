//! `anneal diff`: two runs of the program side by side.
use crate::project::{Outcome, Project};
use serde_json::Value;

/// The difference as JSON; it must be told.
#[track_caller]
fn diff(project: &Project, args: &[&str]) -> Value {
    let outcome = project.anneal(&[&["diff", "--json"], args].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[track_caller]
fn told(outcome: &Outcome) -> String {
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
    outcome.filtered(&outcome.stdout)
}

/// The folders of all runs, the oldest first.
fn runs(project: &Project) -> Vec<String> {
    let entries = std::fs::read_dir(project.path("outputs/runs")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn stages<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap()).collect()
}

const TO_LORA: [&str; 3] = ["tiny.toml", "--only", "lora"];

#[test]
fn two_runs_differ_in_what_was_changed_and_what_came_of_it() {
    let project = Project::new();
    project.run(&TO_LORA);
    let alone = project.anneal(&["diff", "previous", "latest"]);
    assert_eq!(alone.code, Some(2));
    project.run(&[&TO_LORA[..], &["--set", "lora.max_steps=6"]].concat());
    let found = diff(&project, &["previous", "latest"]);
    assert_eq!(found["parameters"].as_array().unwrap().len(), 1);
    let parameter = &found["parameters"][0];
    assert_eq!((&parameter["stage"], &parameter["name"]), (&"lora".into(), &"max_steps".into()));
    assert_eq!((&parameter["old"], &parameter["new"]), (&"8".into(), &"6".into()));
    let metrics = stages(&found["results"], "metric");
    assert!(metrics.contains(&"train_loss") && metrics.contains(&"train_steps"), "{metrics:?}");
    assert!(stages(&found["results"], "stage").iter().all(|stage| *stage == "lora"));
    assert_eq!(stages(&found["keys"], "stage"), ["lora"]);
    assert_eq!(found["keys"][0]["first"]["path"], "params.max_steps");
    let text = told(&project.anneal(&["diff", "previous", "latest"]));
    assert!(text.contains("  lora.max_steps  8 -> 6\n"), "{text}");
    // Nothing to do leaves no folder, unless it is asked for; then it is like the run whose results it found.
    project.run(&TO_LORA);
    assert_eq!(runs(&project).len(), 2);
    project.run(&[&TO_LORA[..], &["--record"]].concat());
    let names = runs(&project);
    assert_eq!(told(&project.anneal(&["diff", &names[0], "latest"])), "base  [RUN]\nrun   [RUN]\n\nno differences\n");
    // A run whose driver was killed has no summary; its events tell the same.
    std::fs::remove_file(project.path(&format!("outputs/runs/{}/summary.json", names[2]))).unwrap();
    let found = diff(&project, &["previous", &format!("outputs/runs/{}", names[2])]);
    assert!(found["remarks"][0].as_str().unwrap().contains("it has no summary.json"), "{found:#}");
    assert_eq!(found["parameters"][0]["new"], "8");
    assert!(stages(&found["results"], "metric").contains(&"train_loss"));
}

#[test]
fn sweeps_and_failures_are_compared() {
    let project = Project::new();
    let sweep = |values: &str| {
        let text = project.read("tiny.toml");
        let text = text.split("\n[sweep").next().unwrap().to_owned();
        project.write("tiny.toml", format!("{text}\n[sweep.grid]\n\"lora.rank\" = {values}\n"));
    };
    sweep("[2, 4]");
    project.run(&TO_LORA);
    sweep("[4, 8]");
    // Fewer tokens than any example has.
    project.edit("max_length = 1024", "max_length = 16");
    let outcome = project.anneal(&[&["run"], &TO_LORA[..]].concat());
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let found = diff(&project, &["previous", "latest"]);
    let parameters = found["parameters"].as_array().unwrap();
    let names: Vec<_> = parameters.iter().map(|p| (p["name"].as_str().unwrap(), p["new"].as_str().unwrap())).collect();
    assert_eq!(names, [("max_length", "16"), ("rank", "each of 4, 8")]);
    let lora: Vec<_> = stages(&found["stages"], "stage").into_iter().filter(|name| name.starts_with("lora")).collect();
    assert_eq!(lora, ["lora[rank=8]", "lora[rank=2]"]);
    let states: Vec<_> = found["states"].as_array().unwrap().iter().map(|s| (&s["stage"], &s["new"])).collect();
    assert_eq!(
        states,
        [(&"tokens".into(), &"user".into()), (&"lora[rank=4]".into(), &"skipped, tokens failed".into())]
    );
    // The parameters of a stage are there once, whatever the sweep.
    let resolved = project.read(&format!("outputs/runs/{}/resolved.json", runs(&project)[1]));
    assert_eq!(resolved.matches("\"learning_rate\"").count(), 2, "{resolved}");
    assert!(resolved.contains("\n[\"lora[rank=8]\",[[0,1]]]"), "{resolved}");
}

#[test]
fn what_cannot_be_compared_is_said() {
    let project = Project::new();
    let data = ["tiny.toml", "--only", "data"];
    project.run(&data);
    project.run(&[&data[..], &["--set", "experiment.name=other", "--record"]].concat());
    let names = runs(&project);
    let two = told(&project.anneal(&["diff", &names[0], &names[1]]));
    assert_eq!(
        two,
        "base  [RUN]\nrun   [RUN]\nnote: these are different experiments: `tiny` and `other`\n\nno differences\n"
    );
    assert!(diff(&project, &["latest", "latest", "--experiment", "tiny"])["base"] == names[0].as_str());
    // A name with one digit wrong, and one that is nothing like any.
    let mut near = names[0].clone();
    near.replace_range(near.len() - 1.., if near.ends_with('0') { "1" } else { "0" });
    for (word, hint) in [(near.as_str(), "did you mean"), ("nonsense", "the newest are")] {
        let outcome = project.anneal(&["diff", word, "latest"]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(&format!("there is no run `{word}`")), "{outcome:?}");
        assert!(outcome.stderr.contains(hint), "{outcome:?}");
    }
    // Damaged, and then empty.
    let file = |name: &str| format!("outputs/runs/{}/{name}", names[1]);
    project.write(&file("summary.json"), "{\"stages\": [");
    let text = told(&project.anneal(&["diff", &names[0], &names[1]]));
    assert!(text.contains("its summary.json is damaged ("), "{text}");
    for name in ["summary.json", "resolved.json", "events.jsonl"] {
        std::fs::remove_file(project.path(&file(name))).unwrap();
    }
    let outcome = project.anneal(&["diff", &names[0], &names[1]]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains("is no run that can be read"), "{outcome:?}");
}
