//! `anneal answers`: samples with every model's answer, what was answered already and what is answered now, two models
//! against each other, and a model without a manifest.
use crate::project::{Cases, Outcome, Project};
use anneal_stages::data::prompt::{PromptTemplate, ResponseForm};
use anneal_stages::data::tatqa;
use serde_json::{Value, json};
use std::path::Path;

/// A second model beside the adapted one, both with names; and a third that nothing trains.
const MORE: &str = r#"
[stages.base_answers]
kind = "infer"
inputs = { model = "base", tokens = "tokens" }
sids = [0, 4]
max_new_tokens = 8

[stages.both]
kind = "evaluate"
inputs = { dataset = "data", base = "base_answers", lora = "answers" }
"#;

fn project() -> Project {
    let project = Project::new();
    project.write("tiny.toml", project.read("tiny.toml") + MORE);
    project
}

/// The command's JSON; it must go well.
#[track_caller]
fn asked(project: &Project, args: &[&str]) -> Value {
    let outcome = project.anneal(&[&["answers"], args, &["--json"]].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, "", "only the result is written");
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn runs(project: &Project) -> usize {
    std::fs::read_dir(project.path("outputs/runs")).map_or(0, Iterator::count)
}

/// What a person sees, at this width.
fn seen(project: &Project, width: &str, args: &[&str]) -> Outcome {
    let mut command = project.command(&[&["answers"], args].concat());
    command.env("COLUMNS", width);
    project.outcome(command)
}

#[test]
fn what_was_answered_is_found_and_the_rest_is_answered_once() {
    let project = project();
    project.run(&["tiny.toml"]);
    let own = project.artifact("tiny", "answers");
    let before = runs(&project);
    let found = asked(&project, &["tiny.toml", "--sid", "0", "--sid", "4"]);
    assert_eq!(runs(&project), before, "nothing had to run");
    let names: Vec<&str> = found["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["lora", "base"]);
    let sample = &found["samples"][0];
    assert_eq!((sample["sid"].as_u64(), sample["uid"].as_str()), (Some(0), Some("yard-q1")));
    assert_eq!(sample["question"], "How many boats were sold in 2019?");
    assert_eq!(sample["answers"].as_array().unwrap().len(), 2);

    let asked_now = asked(&project, &["tiny.toml", "--sid", "1", "--uid", "yard-q3"]);
    assert_eq!(runs(&project), before + 1);
    let events = newest_events(&project);
    let begun = events.iter().filter(|event| event["event"]["type"] == "stage-started");
    let mut begun: Vec<&str> = begun.map(|event| event["stage"].as_str().unwrap()).collect();
    begun.sort_unstable();
    assert_eq!(begun, ["answers", "base_answers"], "{events:?}");
    // The manifest's own results are still what their names lead to, and still all there.
    assert_eq!(project.artifact("tiny", "answers"), own);
    assert_eq!(project.run(&["tiny.toml"]).0, 0);
    // One of these samples alone, and with those of the manifest: nothing runs.
    let now = runs(&project);
    let again = asked(&project, &["tiny.toml", "--sid", "2"]);
    assert_eq!(again["samples"][0], asked_now["samples"][1]);
    asked(&project, &["tiny.toml", "--sid", "4,1,0"]);
    assert_eq!(runs(&project), now);
    // What is answered for looking at is what a run answers.
    project.run(&["tiny.toml", "--only", "answers", "--set", "answers.sids=[]"]);
    let text = std::fs::read_to_string(project.artifact("tiny", "answers").join("answers.jsonl")).unwrap();
    let row =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|row| row["sid"] == 1).unwrap();
    assert_eq!(asked_now["samples"][0]["answers"][0]["answer"], row["answer"]);
}

fn newest_events(project: &Project) -> Vec<Value> {
    let mut folders: Vec<_> =
        std::fs::read_dir(project.path("outputs/runs")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    let text = std::fs::read_to_string(folders.last().unwrap().join("events.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn without_a_run_what_needs_no_training_is_answered_and_the_rest_is_told() {
    let project = project();
    let outcome = seen(&project, "80", &["tiny.toml", "--sid", "3"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let said = outcome.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("no answer: stage `lora` has no result yet"), "{said}");
    assert!(!project.path("outputs/latest/tiny/lora").exists());
    let alone = project.anneal(&["answers", "tiny.toml", "--sid", "3", "--only", "lora"]);
    assert_eq!(alone.code, Some(3), "{alone:?}");
    assert!(alone.stderr.contains("no model can answer yet: stage `lora` has no result yet"), "{}", alone.stderr);
}

#[test]
fn pages_and_differences_as_people_see_them() {
    let project = project();
    project.run(&["tiny.toml"]);
    let mut cases = Cases::default();
    for width in ["110", "60"] {
        let outcome = seen(&project, width, &["tiny.toml", "--sid", "4"]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
        assert!(
            outcome.stdout.lines().all(|line| line.chars().count() <= width.parse().unwrap()),
            "{}",
            outcome.stdout
        );
        // What an untrained model says differs between processors; the sample is the same everywhere.
        let sample: String = outcome.stdout.split("Answers").next().unwrap().to_owned();
        cases.add(&format!("{width} columns"), sample);
    }
    let outcome = seen(&project, "80", &["tiny.toml", "--diff", "base,LoRA"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    cases.add("two models that are both wrong", &outcome.stdout);
    let value = asked(&project, &["tiny.toml", "--diff", "base_answers,answers"]);
    assert_eq!((value["questions"].as_u64(), value["neither"].as_u64()), (Some(2), Some(2)));
    insta::assert_snapshot!(cases);
}

#[test]
fn gains_and_losses_are_listed_in_the_order_of_the_file() {
    let project = project();
    project.run(&["tiny.toml", "--set", "answers.sids=[]", "--set", "base_answers.sids=[]"]);
    let value = asked(
        &project,
        &[
            "tiny.toml",
            "--set",
            "answers.sids=[]",
            "--set",
            "base_answers.sids=[]",
            "--diff",
            "base,lora",
            "--metric",
            "tat-llm",
        ],
    );
    let count = |key: &str| value[key].as_u64().unwrap() as usize;
    let listed = |key: &str| value[key].as_array().unwrap().len();
    assert_eq!((count("gained"), count("lost")), (listed("gained_samples"), listed("lost_samples")));
    assert_eq!(count("gained") + count("lost") + count("both_right") + count("neither"), count("questions"));
    assert_eq!(count("questions"), 5, "all of the file");
}

#[test]
fn answers_are_scored_as_the_manifest_scores_them() {
    let project = project();
    project.run(&["tiny.toml"]);
    let metric = |args: &[&str]| {
        let page = asked(&project, &[&["tiny.toml", "--sid", "0"], args].concat())["metric"].clone();
        let difference = asked(&project, &[&["tiny.toml", "--diff", "base,lora"], args].concat())["metric"].clone();
        assert_eq!(page, difference);
        page
    };
    assert_eq!(metric(&[]), "official");
    let lenient = ["--set", "both.metric=tat-llm", "--set", "score.metric=tat-llm"];
    assert_eq!(metric(&lenient), "tat-llm");
    assert_eq!(metric(&[&lenient[..], &["--metric", "official"]].concat()), "official");
    assert_eq!(metric(&lenient[..2]), "official", "the manifest scores in two ways");
    assert_eq!(metric(&["--metric", "tat-llm"]), "tat-llm");
}

#[test]
fn what_cannot_be_shown_says_why() {
    let project = project();
    let mut cases = Cases::default();
    let mut add = |name: &str, args: &[&str]| {
        let outcome = project.anneal(&[&["answers"], args].concat());
        assert!(!outcome.stderr.contains("panicked") && outcome.code != Some(0), "{outcome:?}");
        cases.add(name, outcome.told());
    };
    add("no sample", &["tiny.toml"]);
    add("no manifest", &["--sid", "1"]);
    add("a model without data", &["--model", "base", "--sid", "1"]);
    add("two that are not answered yet", &["tiny.toml", "--diff", "base,lora"]);
    add("an unknown sid", &["tiny.toml", "--only", "base", "--sid", "99"]);
    add("an unknown uid", &["tiny.toml", "--uid", "yacht"]);
    add("the beginning of several uids", &["tiny.toml", "--uid", "yard"]);
    add("a uid without a letter", &["tiny.toml", "--uid", ""]);
    add("a sample twice", &["tiny.toml", "--sid", "0", "--uid", "yard-q1"]);
    add("one model to compare", &["tiny.toml", "--diff", "base"]);
    add("a model with itself", &["tiny.toml", "--diff", "base,base_answers"]);
    add("an unknown model", &["tiny.toml", "--diff", "base,lara"]);
    add("sids twice in a manifest", &["tiny.toml", "--set", "answers.sids=[1, 1]", "--sid", "1"]);
    project.write(
        "none.toml",
        "[experiment]\nname = \"n\"\n[stages.d]\nkind = \"load\"\ndataset = { eval = \"eval.json\" }\n",
    );
    add("no stage that answers", &["none.toml", "--sid", "1"]);
    project.write("data.txt", "hello");
    add("data of no known format", &["--model", "base", "--data", "data.txt", "--sid", "1"]);
    add("a model that is not there", &["--model", "nowhere", "--data", "eval.json", "--sid", "1"]);
    std::fs::create_dir(project.path("empty")).unwrap();
    add("a folder without a model", &["--model", "empty", "--data", "eval.json", "--sid", "1"]);
    insta::assert_snapshot!(cases);
}

#[test]
fn a_model_without_a_manifest_answers_tat_qa_and_prepared_samples_alike() {
    let project = project();
    project.run(&["tiny.toml"]);
    project.copy_artifact("base", "base");
    project.copy_artifact("lora", "adapter");
    let quick = |data: &str, adapter: &[&str]| {
        let args = [&["--model", "base", "--data", data, "--sid", "1", "--sid", "4", "--max-new-tokens", "8"], adapter];
        asked(&project, &args.concat())
    };
    let plain = quick("eval.json", &[]);
    assert_eq!(plain["models"][0]["name"], "base");
    let adapted = quick("eval.json", &["--adapter", "adapter"]);
    assert_eq!(adapted["models"][0]["name"], "base + adapter");
    // The manifest's stages give the same answers.
    let manifest = asked(&project, &["tiny.toml", "--sid", "1", "--sid", "4"]);
    for at in 0..2 {
        let said = |value: &Value, model: usize| value["samples"][at]["answers"][model]["answer"].clone();
        assert_eq!(said(&adapted, 0), said(&manifest, 0));
        assert_eq!(said(&plain, 0), said(&manifest, 1));
    }
    // The same samples with their prompts already rendered, as one list and as lines.
    let contexts = tatqa::read(&project.path("eval.json")).unwrap();
    let rows: Vec<Value> = contexts
        .iter()
        .flat_map(|context| context.questions.iter().map(move |question| (context, question)))
        .map(|(context, question)| {
            json!({
                "id": question.uid,
                "user_prompt": PromptTemplate::TatQa.render(context, question, usize::MAX),
                "resp": ResponseForm::TatQa.render(question),
            })
        })
        .collect();
    project.write("list.json", Value::Array(rows.clone()).to_string());
    project.write("lines.jsonl", rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    for file in ["list.json", "lines.jsonl"] {
        let prepared = quick(file, &[]);
        for at in 0..2 {
            let (one, other) = (&prepared["samples"][at], &plain["samples"][at]);
            for key in ["sid", "uid", "question", "table", "sample_answer"] {
                assert_eq!(one[key], other[key], "{file} {key}");
            }
            for key in ["answer", "em", "f1", "scale", "formed"] {
                assert_eq!(one["answers"][0][key], other["answers"][0][key], "{file} {key}");
            }
        }
    }
}

#[test]
fn a_model_without_a_manifest_tells_what_does_not_fit() {
    let project = project();
    project.run(&["tiny.toml"]);
    let base = project.copy_artifact("base", "base");
    project.copy_artifact("lora", "adapter");
    let mut cases = Cases::default();
    project.run(&["tiny.toml", "--only", "base", "--set", "base.init.hidden_size=64"]);
    project.copy_artifact("base", "wide");
    let mut told = |name: &str, model: &str| {
        let args = ["answers", "--model", model, "--adapter", "adapter", "--data", "eval.json", "--sid", "1"];
        let outcome = project.anneal(&args);
        assert!(!outcome.stderr.contains("panicked") && outcome.code == Some(3), "{outcome:?}");
        cases.add(name, outcome.told());
    };
    told("an adapter of another base", "wide");
    let config = std::fs::read_to_string(base.join("config.json")).unwrap();
    let short = config.replace("\"max_position_embeddings\": 1024", "\"max_position_embeddings\": 64");
    assert_ne!(short, config);
    std::fs::write(base.join("config.json"), short).unwrap();
    told("a window shorter than the prompts", "base");
    std::fs::write(base.join("config.json"), &config).unwrap();
    let adapter = project.path("adapter/adapter_config.json");
    let text = std::fs::read_to_string(&adapter).unwrap().replace("\"r\": 4", "\"r\": 8");
    std::fs::write(&adapter, text).unwrap();
    told("an adapter whose two files do not fit each other", "base");
    std::fs::remove_file(Path::new(&base).join("tokenizer.json")).unwrap();
    told("no tokenizer", "base");
    insta::assert_snapshot!(cases);
}
