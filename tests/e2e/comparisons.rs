//! Several models in one stage, and the repository's manifests that compare, on the tiny model.
use crate::project::Project;
use serde_json::Value;
use std::path::Path;

fn manifest(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("manifests").join(name).to_str().unwrap().to_owned()
}

/// Runs a manifest of the repository with these settings; what its report says, and its scores.
fn compared(project: &Project, name: &str, sets: &[String]) -> (Value, Value) {
    let path = manifest(name);
    let mut args = vec![path.as_str(), "--outputs", "out"];
    args.extend(sets.iter().flat_map(|set| ["--set", set.as_str()]));
    project.run(&args);
    assert_eq!(project.run(&args).0, 0, "a second run has nothing to do");
    let report = project.anneal(&[&["report", "--json"], args.as_slice()].concat());
    let scores = project.read(&format!("out/latest/{}/scores/scores.json", name.trim_end_matches(".toml")));
    (serde_json::from_str(&report.stdout).unwrap(), serde_json::from_str(&scores).unwrap())
}

fn labels(report: &Value) -> Vec<&str> {
    report["results"].as_array().unwrap().iter().map(|row| row["label"].as_str().unwrap()).collect()
}

#[test]
fn two_base_models_are_compared() {
    let project = Project::new();
    project.run(&["tiny.toml", "--only", "base"]);
    project.copy_artifact("base", "first");
    project.run(&["tiny.toml", "--only", "base", "--set", "experiment.seed=8"]);
    project.copy_artifact("base", "second");
    let dir = |name: &str| project.path(name).display().to_string();
    let sets = [
        format!("llama2.model={}", dir("first")),
        format!("llama3.model={}", dir("second")),
        format!("tatqa.dataset.eval={}", dir("eval.json")),
        "llama2_answers.max_new_tokens=8".to_owned(),
        "llama3_answers.max_new_tokens=8".to_owned(),
    ];
    let (report, scores) = compared(&project, "compare-base-models.toml", &sets);
    assert_eq!(labels(&report), ["llama2", "llama3"]);
    let comparison = &scores["comparisons"][0];
    assert_eq!((comparison["first"].as_str(), comparison["second"].as_str()), (Some("llama2"), Some("llama3")));
    for (name, row) in ["llama2", "llama3"].iter().zip(report["results"].as_array().unwrap()) {
        let model = &scores["models"][name];
        // Random models know nothing: of 400 tokens each is about as likely as any other.
        let loss = model["eval_loss"].as_f64().unwrap();
        assert!((loss - 400_f64.ln()).abs() < 0.3, "{model}");
        assert!((model["perplexity"].as_f64().unwrap() - loss.exp()).abs() < 1e-9);
        assert_eq!(row["values"]["eval_loss"].as_f64(), Some(loss));
        assert_eq!(model["format_failures"], model["questions"]);
        assert!(model["by_metric"]["tat-llm"]["em"].is_number());
    }
    assert_ne!(scores["models"]["llama2"]["eval_loss"], scores["models"]["llama3"]["eval_loss"]);
}

#[test]
fn a_base_an_adapter_and_a_fine_tuned_folder_are_compared() {
    let project = Project::new();
    project.run(&["tiny.toml"]);
    for (stage, to) in [("base", "base"), ("lora", "lora"), ("tuned", "fft")] {
        project.copy_artifact(stage, to);
    }
    let dir = |name: &str| project.path(name).display().to_string();
    let mut sets = vec![
        format!("base.model={}", dir("base")),
        format!("lora.adapter={}", dir("lora")),
        format!("fft.model={}", dir("fft")),
        format!("tatqa.dataset.eval={}", dir("eval.json")),
        "tokens.max_length=1024".to_owned(),
    ];
    sets.extend(["base", "lora", "fft"].map(|name| format!("{name}_answers.max_new_tokens=8")));
    let (report, scores) = compared(&project, "compare-base-lora-fft.toml", &sets);
    assert_eq!(labels(&report), ["base", "lora", "fft"], "in the order of the manifest");
    assert_eq!(scores["comparisons"].as_array().unwrap().len(), 3);
    // What training measured on the eval split is what this measures of the adapter that training left.
    let trained = project.anneal(&["report", "tiny.toml", "--json"]);
    let trained: Value = serde_json::from_str(&trained.stdout).unwrap();
    let lora = trained["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "lora").unwrap();
    let (before, now) =
        (lora["metrics"]["eval_loss"].as_f64().unwrap(), scores["models"]["lora"]["eval_loss"].as_f64().unwrap());
    assert!((before - now).abs() < 1e-5, "{before} {now}");
    let base = scores["models"]["base"]["eval_loss"].as_f64().unwrap();
    assert!(now < base, "training helped: {now} {base}");
    // Rows name their model, in the order of the file, and flag what was cut off.
    let rows = project.read("out/latest/compare-base-lora-fft/scores/per_question.jsonl");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let questions = scores["models"]["base"]["questions"].as_u64().unwrap() as usize;
    assert_eq!(rows.len(), 3 * questions);
    assert!(rows.iter().all(|row| row["cut_off"].is_boolean() && row["formed"] == false));
    let path = manifest("compare-base-lora-fft.toml");
    let mut args = vec!["answers", path.as_str(), "--outputs", "out", "--sid", "0", "--json"];
    args.extend(sets.iter().flat_map(|set| ["--set", set.as_str()]));
    let answers = project.anneal(&args);
    let answers: Value = serde_json::from_str(&answers.stdout).unwrap();
    assert_eq!(answers["samples"][0]["answers"].as_array().unwrap().len(), 3);
}

#[test]
fn predictions_round_trip_through_their_file() {
    let project = Project::new();
    project.run(&["tiny.toml", "--set", "answers.sids=[]"]);
    let folder = project.artifact("tiny", "score");
    let scores: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("scores.json")).unwrap()).unwrap();
    let file = folder.join("predictions.json");
    let again = project.anneal(&["score", "--gold", "eval.json", "--predictions", file.to_str().unwrap(), "--json"]);
    assert_eq!((again.code, again.stderr.as_str()), (Some(0), ""), "{again:?}");
    let again: Value = serde_json::from_str(&again.stdout).unwrap();
    for key in ["em", "f1", "scale"] {
        assert_eq!(again["total"][key], scores[key], "{key}");
    }
    assert_eq!(again["questions"], scores["questions"]);
}

#[test]
fn inputs_of_evaluate_are_answers_and_there_is_one_at_least() {
    let project = Project::new();
    project.edit(
        r#"inputs = { answers = "answers", dataset = "data" }"#,
        r#"inputs = { lora = "lora", dataset = "data" }"#,
    );
    let wrong = project.anneal(&["plan", "tiny.toml"]);
    assert_eq!(wrong.code, Some(3), "{wrong:?}");
    assert!(
        wrong.stderr.contains("input `lora` takes `answers`, but stage `lora` makes `adapter`"),
        "{}",
        wrong.stderr
    );
    project.edit(r#"inputs = { lora = "lora", dataset = "data" }"#, r#"inputs = { dataset = "data" }"#);
    let none = project.anneal(&["plan", "tiny.toml"]);
    assert_eq!(none.code, Some(3), "{none:?}");
    assert!(none.stderr.contains("no answers are connected"), "{}", none.stderr);
}
