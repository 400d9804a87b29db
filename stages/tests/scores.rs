//! The stage `evaluate` on answers written by hand: one model, several, free text, prepared samples, and what it refuses.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
use anneal_engine::{Event, Failure, Launch, Stage, StageContext, StageInput};
use anneal_stages::evaluate::Evaluate;
use anneal_stages::metric::{Predictions, score};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

const SENTENCE: &str = "The answer is: {} #### and its corresponding scale is: ";

/// The sentence that is asked for.
fn says(answer: &str, scale: &str) -> String {
    SENTENCE.replace("{}", answer) + scale
}

/// Four questions: two spans, a difference, a count.
fn questions() -> Value {
    let question = |uid: &str, kind: &str, from: &str, answer: Value, scale: &str| {
        json!({"uid": uid, "order": 1, "question": "q?", "answer": answer, "derivation": "", "answer_type": kind,
            "answer_from": from, "scale": scale})
    };
    json!([{"table": {"uid": "t", "table": [["", "2019"]]}, "paragraphs": [], "questions": [
        question("a", "span", "table", json!(["60"]), "percent"),
        question("b", "span", "text", json!(["weak exports"]), ""),
        question("c", "arithmetic", "table", json!(-94), "million"),
        question("d", "count", "table-text", json!("4"), ""),
    ]}])
}

/// A uid, an answer, and whether it came to an end.
type Said = (&'static str, String, bool);
/// A model's name and its answers.
type Model<'a> = (&'a str, &'a [Said]);

/// What came of the stage.
struct Outcome {
    out: TempDir,
    metrics: BTreeMap<String, f64>,
    notes: Vec<String>,
}

impl Outcome {
    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.out.path().join(name)).unwrap()).unwrap()
    }

    fn rows(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.out.path().join("per_question.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Scores models by name, each with (uid, answer, whether it came to an end).
fn evaluate(data: (&str, &str), models: &[Model<'_>], params: Value) -> Result<Outcome, Failure> {
    let folder = tempfile::tempdir().unwrap();
    let input = |name: &str, artifact: &str| {
        let dir = folder.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        StageInput { artifact: artifact.into(), dir, digest: String::new() }
    };
    let mut inputs = BTreeMap::from([("dataset".to_owned(), input("dataset", "dataset"))]);
    std::fs::write(folder.path().join("dataset").join(data.0), data.1).unwrap();
    for (name, answers) in models {
        let rows: String = answers
            .iter()
            .enumerate()
            .map(|(sid, (uid, answer, ended))| {
                let row = json!({"sid": sid, "uid": uid, "prompt": "", "answer": answer, "gold": null, "ended": ended,
                    "new_tokens": 3, "gold_nll": 2.0, "gold_tokens": 4});
                format!("{row}\n")
            })
            .collect();
        std::fs::write(input(name, "answers").dir.join("answers.jsonl"), rows).unwrap();
        inputs.insert((*name).to_owned(), input(name, "answers"));
    }
    let mut all = json!({"split": "eval", "metric": "official", "response": "tat-qa", "label": null});
    params.as_object().unwrap().iter().for_each(|(key, value)| all[key] = value.clone());
    let (out, notes) = (tempfile::tempdir().unwrap(), RefCell::new(Vec::new()));
    let emit = |event: Event| {
        if let Event::Note { message, .. } = event {
            notes.borrow_mut().push(message);
        }
    };
    let mut context = StageContext {
        name: "test",
        params: &all,
        seed: 1,
        numerics: "cpu-f32",
        device_memory_limit_mib: None,
        inputs: &inputs,
        sources: &[],
        out: out.path(),
        checkpoints: out.path(),
        launch: Launch { root: out.path(), scratch: out.path(), log: out.path(), adopt: None },
        emit: &emit,
        stop: &|| false,
        programs_mib: std::cell::Cell::new(None),
        metrics: RefCell::default(),
        references: RefCell::default(),
    };
    Evaluate.run(&mut context)?;
    let metrics = context.metrics.take();
    Ok(Outcome { out, metrics, notes: notes.into_inner() })
}

fn tat_qa(models: &[Model<'_>], params: Value) -> Result<Outcome, Failure> {
    evaluate(("eval.json", &questions().to_string()), models, params)
}

fn first() -> Vec<Said> {
    vec![
        ("d", says("4", "none"), true),
        ("a", says("60", "percent"), true),
        ("b", "It was weak exports".to_owned(), false),
        ("c", says("94", "million"), true),
    ]
}

#[test]
fn one_model_alone() {
    let outcome = tat_qa(&[("answers", &first())], json!({})).unwrap();
    let scores = outcome.json("scores.json");
    let numbers = |keys: &[&str]| keys.iter().map(|key| scores[key].as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(numbers(&["questions", "em", "f1", "scale"]), [4.0, 50.0, 50.0, 75.0]);
    assert_eq!(numbers(&["format_failures", "cut_off", "eval_loss"]), [1.0, 1.0, 0.5]);
    assert!((scores["perplexity"].as_f64().unwrap() - 0.5_f64.exp()).abs() < 1e-12);
    assert_eq!(scores["by_metric"]["official"]["em"], 50.0);
    // The sign of a number does not count, and 94 is right; "It was weak exports" is not the span.
    assert_eq!(scores["by_metric"]["tat-llm"]["em"], 75.0);
    assert_eq!(
        (scores["em_interval"]["low"].as_f64(), scores["em_interval"]["high"].as_f64()),
        (Some(0.0), Some(100.0))
    );
    assert_eq!(scores["pivots"].as_array().unwrap().len(), 4);
    // In the order of the data set, whatever the order of the answers.
    let rows = outcome.rows();
    assert_eq!(rows.iter().map(|row| row["uid"].as_str().unwrap()).collect::<String>(), "abcd");
    assert_eq!(
        rows[1],
        json!({"sid": 2, "uid": "b", "em": 0.0, "f1": 0.0, "scale": 0.0, "formed": false, "cut_off": true})
    );
    assert!(
        outcome.notes.iter().any(|note| note == "1 of 4 answers do not have the asked form"),
        "{:?}",
        outcome.notes
    );
    assert_eq!(
        (outcome.metrics["em"], outcome.metrics["format_failures"], outcome.metrics["formed"]),
        (50.0, 1.0, 75.0)
    );
    let told = "official: EM 50.00 (95 % interval 0.00 to 100.00), F1 50.00 (95 % interval 0.00 to 100.00); tat-llm: EM 75.00, F1 ";
    assert!(outcome.notes.iter().any(|note| note.starts_with(told)), "{:?}", outcome.notes);
    // The predictions, read back, have the same scores.
    let contexts = anneal_stages::data::tatqa::parse(&questions().to_string(), Path::new("eval.json")).unwrap();
    let predictions = Predictions::read(&outcome.out.path().join("predictions.json")).unwrap();
    let again = score(contexts.iter().flat_map(|context| &context.questions), &predictions);
    assert_eq!(numbers(&["em", "f1", "scale"]), [again.em, again.f1, again.scale]);

    let lenient = tat_qa(&[("answers", &first())], json!({"metric": "tat-llm"})).unwrap().json("scores.json");
    assert_eq!((&lenient["metric"], &lenient["em"]), (&json!("tat-llm"), &json!(75.0)));
    assert_eq!(lenient["by_metric"], scores["by_metric"]);
}

#[test]
fn several_models_are_compared_on_what_all_of_them_answered() {
    let second = vec![
        ("c", says("-94", "million"), true),
        ("b", says("weak exports", "none"), true),
        ("a", says("61", "percent"), true),
    ];
    let outcome = tat_qa(&[("base", &first()), ("lora", &second)], json!({})).unwrap();
    let scores = outcome.json("scores.json");
    assert_eq!(
        (&scores["models"]["base"]["questions"], &scores["models"]["lora"]["questions"]),
        (&json!(4), &json!(3))
    );
    let comparison = &scores["comparisons"][0];
    for (key, value) in [
        ("first", json!("base")),
        ("second", json!("lora")),
        ("questions", json!(3)),
        ("gained", json!(2)),
        ("lost", json!(1)),
        ("mcnemar_p", json!(1.0)),
    ] {
        assert_eq!(comparison[key], value, "{key}");
    }
    assert!((comparison["em"]["difference"].as_f64().unwrap() - 100.0 / 3.0).abs() < 1e-9);
    let interval = &comparison["em"]["interval"];
    assert_eq!((interval["low"].as_f64(), interval["high"].as_f64()), (Some(-100.0), Some(100.0)));
    assert!(outcome.notes.iter().any(|note| note.contains("compared on the 3 questions that all of them answered")));
    assert!(
        outcome.notes.iter().any(|note| note.starts_with("base -> lora: EM +33.33 (95 % interval -100.00 to +100.00)"))
    );
    let rows = outcome.rows();
    assert_eq!((rows.len(), &rows[0]["model"], &rows[6]["model"]), (7, &json!("base"), &json!("lora")));
    assert_eq!((outcome.metrics["base/em"], outcome.metrics["lora/f1"]), (50.0, 200.0 / 3.0));
    assert_eq!(outcome.json("predictions-lora.json")["b"], json!([["weak exports"], ""]));
    // The same answers give the same bytes.
    let again = tat_qa(&[("base", &first()), ("lora", &second)], json!({})).unwrap();
    assert_eq!(again.json("scores.json"), scores);
}

#[test]
fn free_text_and_prepared_samples() {
    let rows = [json!({"uid": "x", "instruction": "Say a cat.", "output": "A cat sat"})];
    let lines = rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    let outcome =
        evaluate(("eval.jsonl", &lines), &[("answers", &[("x", "the cat ran".to_owned(), true)])], json!({})).unwrap();
    let scores = outcome.json("scores.json");
    assert_eq!((&scores["em"], &scores["f1"]), (&json!(0.0), &json!(50.0)));
    for absent in ["metric", "scale", "format_failures", "by_metric", "pivots"] {
        assert!(scores.get(absent).is_none(), "{absent}");
    }
    assert_eq!(outcome.json("predictions.json"), json!({"x": "the cat ran"}));

    let sample = |id: &str, resp: String| json!({"id": id, "user_prompt": format!("Answer {id}."), "resp": resp});
    let list = json!([
        sample("a", says("60", "percent")),
        sample("b", says("weak exports", "none")),
        sample("c", says("-94", "million")),
        sample("d", says("4", "none"))
    ]);
    let prepared = evaluate(("eval.jsonl", &list.to_string()), &[("answers", &first())], json!({})).unwrap();
    let scores = prepared.json("scores.json");
    let own = tat_qa(&[("answers", &first())], json!({})).unwrap().json("scores.json");
    for key in ["questions", "em", "f1", "scale", "format_failures", "by_metric"] {
        assert_eq!(scores[key], own[key], "{key}");
    }
    assert!(scores.get("pivots").is_none());
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let told = |answers: &[Said]| tat_qa(&[("answers", answers)], json!({})).err().unwrap();
    let foreign = told(&[("a", String::new(), true), ("z", String::new(), true)]);
    assert!(foreign.message.contains("2 answers, but only 1 of their questions are in split `eval`"), "{foreign}");
    let twice = told(&[("a", String::new(), true), ("a", String::new(), true)]);
    assert!(twice.message.contains("question a (sid 1) was answered twice"), "{twice}");
    let split = tat_qa(&[("answers", &first())], json!({"split": "train"})).err().unwrap();
    assert!(split.message.contains("no `train` split"), "{split}");
    assert_eq!(Evaluate.check(&json!({}), &["dataset"]).len(), 1);
    assert!(Evaluate.check(&json!({}), &["dataset", "mine"]).is_empty());
}
