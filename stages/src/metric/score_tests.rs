//! Tests of the metric: the golden vectors of the official code, and whole prediction sets against its answers.

use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::*;
use crate::data::tatqa;
use crate::data::testing::data_dir;

fn question(answer_type: &str, answer: &str, scale: &str) -> Question {
    let text = format!(
        "[{{\"table\":{{\"uid\":\"t\",\"table\":[]}},\"questions\":[{{\"uid\":\"u\",\"question\":\"q\",\
         \"answer\":{answer},\"answer_type\":\"{answer_type}\",\"answer_from\":\"table\",\"scale\":\"{scale}\"}}]}}]"
    );
    tatqa::parse(&text, Path::new("gold.json")).unwrap().remove(0).questions.remove(0)
}

/// `gold` and `predicted` are "answer scale" with the answer in JSON.
fn check(answer_type: &str, gold: (&str, &str), predicted: (&str, &str), em: f64, f1: f64, scale: f64) {
    let text = format!("{{\"u\": [{}, \"{}\"]}}", predicted.0, predicted.1);
    let predictions = Predictions::parse(&text, Path::new("p.json")).unwrap();
    let scores = score([&question(answer_type, gold.0, gold.1)], &predictions);
    let row = &scores.per_question[0];
    assert_eq!((row.em, row.f1, row.scale), (em, f1, scale), "{gold:?} {predicted:?}");
}

#[test]
fn arithmetic_and_count() {
    let a = |gold, predicted, em, scale| check("arithmetic", gold, predicted, em, em, scale);
    a(("-12.6", "million"), ("\"-12.6\"", "million"), 1.0, 1.0);
    a(("-12.6", "million"), ("\"-12.6\"", ""), 0.0, 0.0);
    a(("-12.6", "million"), ("-12600000", ""), 1.0, 0.0);
    a(("7.5", "billion"), ("\"7500\"", "million"), 1.0, 0.0);
    a(("-12.14", "percent"), ("\"-12.14%\"", ""), 1.0, 0.0);
    a(("-12.14", "percent"), ("\"-0.1214\"", ""), 1.0, 0.0);
    a(("-12.14", "percent"), ("\"-0.1214\"", "percent"), 0.0, 1.0);
    a(("12.14", "percent"), ("\"12.144\"", "percent"), 1.0, 1.0);
    a(("0", ""), ("0", ""), 0.0, 0.0);
    a(("0", ""), ("\"0\"", ""), 1.0, 1.0);
    a(("-94", "million"), ("\"$(94)\"", "million"), 1.0, 1.0);
    a(("-1234", "thousand"), ("\"(1,234)\"", "thousand"), 0.0, 1.0);
    a(("-4.5", "percent"), ("\"(4.5%)\"", ""), 0.0, 0.0);
    a(("0.125", ""), ("\"0.13\"", ""), 0.0, 1.0);
    a(("0.125", ""), ("\"0.12\"", ""), 1.0, 1.0);
    a(("1.005", ""), ("\"1.01\"", ""), 0.0, 1.0);
    a(("1.005", ""), ("\"1.0\"", ""), 1.0, 1.0);
    a(("22.12", "million"), ("[\"1\", \"2\"]", ""), 0.0, 0.0);
    check("count", ("\"4\"", ""), ("\"four\"", ""), 0.0, 0.0, 1.0);
    check("count", ("\"04\"", ""), ("\"4\"", ""), 1.0, 1.0, 1.0);
    check("count", ("\"4\"", ""), ("\"4\"", "thousand"), 0.0, 0.0, 0.0);
}

#[test]
fn spans() {
    check("span", ("[\"$1,496.5\"]", "million"), ("\"$1,496.5 million\"", ""), 1.0, 1.0, 0.0);
    check("span", ("[\"$31.4 million\"]", ""), ("\"31.4\"", "million"), 1.0, 1.0, 0.0);
    check("span", ("[\"7.9\"]", "percent"), ("\"7.9%\"", ""), 1.0, 1.0, 0.0);
    check("span", ("[\"INR19\"]", ""), ("\"INR 19\"", ""), 0.0, 0.0, 1.0);
    check("span", ("[\"The Fixed-Price type\"]", ""), ("\"fixed price type\"", ""), 0.0, 0.4, 1.0);
    check("span", ("[\"fixed-price type\"]", ""), ("\"fixed-price type contracts\"", ""), 0.0, 0.8, 1.0);
    check("span", ("[\"the company's net loss\"]", ""), ("\"company’s net loss\"", ""), 0.0, 0.67, 1.0);
    let two = ("[\"$31.4 million\", \"$28.5 million\"]", "");
    check("multi-span", two, ("[\"$28.5 million\", \"$31.4 million\"]", ""), 1.0, 1.0, 1.0);
    check("multi-span", two, ("\"$31.4 million#$28.5 million\"", ""), 0.0, 0.67, 1.0);
    let three = ("[\"2019\", \"2018\", \"2017\"]", "");
    check("multi-span", three, ("[\"2018\", \"2019\"]", ""), 0.0, 0.8, 1.0);
    check("multi-span", three, ("\"2019, 2018, 2017\"", ""), 0.0, 0.0, 1.0);
    check("multi-span", ("[\"b c\", \"a\", \"\"]", ""), ("[\"B\", \"c\"]", ""), 1.0, 1.0, 1.0);
}

#[test]
fn missing_and_unknown_predictions_are_counted() {
    let gold = [question("span", "[\"x\"]", "")];
    let predictions = Predictions::parse("{\"other\": [\"x\", \"\"]}", Path::new("p.json")).unwrap();
    let scores = score(&gold, &predictions);
    assert_eq!((scores.questions, scores.missing, scores.unknown), (1, 1, 1));
    assert!(scores.em == 0.0 && scores.f1 == 0.0 && scores.scale == 0.0);
    let none = score([], &predictions);
    assert!(none.em == 0.0 && none.pivots.is_empty());
}

#[test]
fn agrees_with_the_official_evaluator_on_whole_prediction_sets() {
    let Some(data) = data_dir() else { return };
    let contexts = tatqa::read(&data.join("tatqa/tatqa_dataset_dev.json")).unwrap();
    let gold: Vec<&Question> = contexts.iter().flat_map(|context| &context.questions).collect();
    let oracle = data.join("eval_oracle");
    let json =
        |name: &str| -> Value { serde_json::from_str(&std::fs::read_to_string(oracle.join(name)).unwrap()).unwrap() };
    let totals = json("scores.json");
    let close = |ours: f64, theirs: f64| (ours - theirs).abs() < 1e-9;
    for (name, expected) in totals.as_object().unwrap() {
        let set = name.strip_prefix("dev/").unwrap();
        let file = match set {
            "sample_prediction" => data.join("tatqa/sample_prediction.json"),
            _ => oracle.join(format!("dev.pred.{set}.json")),
        };
        let predictions = Predictions::read(&file).unwrap();
        let start = Instant::now();
        let scores = score(gold.iter().copied(), &predictions);
        let took = start.elapsed();
        let per_question = json(&format!("dev.{set}.per_question.json"));
        for row in &scores.per_question {
            let theirs = &per_question[&row.uid];
            assert_eq!((Some(row.em), Some(row.f1)), (theirs[0].as_f64(), theirs[1].as_f64()), "{set} {}", row.uid);
        }
        for (ours, key) in [(scores.em, "em"), (scores.f1, "f1"), (scores.scale, "scale")] {
            assert!(close(ours, expected[key].as_f64().unwrap() * 100.0), "{set} {key} {ours}");
            assert_eq!(format!("{ours:.2}"), expected["printed"][key].as_str().unwrap(), "{set} {key}");
        }
        for pivot in &scores.pivots {
            let kind = |value: Value| value.as_str().unwrap().to_owned();
            let key = format!(
                "{}|{}",
                kind(serde_json::to_value(pivot.answer_type).unwrap()),
                kind(serde_json::to_value(pivot.answer_from).unwrap())
            );
            let theirs = &expected["by_type_from"][&key];
            assert_eq!(Some(pivot.questions as u64), theirs["n"].as_u64(), "{set} {key}");
            let mean = |sum: &str| theirs[sum].as_f64().unwrap() / pivot.questions as f64 * 100.0;
            assert!(close(pivot.em, mean("em_sum")) && close(pivot.f1, mean("f1_sum")), "{set} {key}");
        }
        // It takes about 10 ms in a release build on an idle core; the bound allows for debug builds and busy machines.
        assert!(took.as_secs() < 2, "{set} took {took:?}");
        #[expect(clippy::print_stdout, reason = "the time is read by hand")]
        {
            println!("{set}: {took:?}");
        }
    }
}
