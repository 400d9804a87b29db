//! `anneal score`: predictions against gold answers by the official metric or TAT-LLM's, without a manifest.
//!
//! Unaware of how a score is computed.
use crate::args::Score;
use crate::exit::{Error, Exit};
use crate::output;
use anneal_engine::Failure;
use anneal_stages::data::prompt::ResponseForm;
use anneal_stages::data::tatqa::{self, Question};
use anneal_stages::metric::tat_llm::score_response;
use anneal_stages::metric::{Metric, Pivot, Prediction, Predictions, QuestionScore, Scores, score};
use serde_json::{Map, Value, json};

pub(super) fn run(args: &Score) -> Result<Exit, Error> {
    let failure = |error: &dyn std::fmt::Display| Failure::user(error.to_string());
    let contexts = tatqa::read(&args.gold).map_err(|e| failure(&e))?;
    let predictions = Predictions::read(&args.predictions).map_err(|e| failure(&e))?;
    let questions = || contexts.iter().flat_map(|context| &context.questions);
    let scores = score(questions(), &predictions);
    let scores = match args.metric.metric() {
        Metric::Official => scores,
        Metric::TatLlm => leniently(questions(), &predictions, scores),
    };
    for warning in warnings(&scores) {
        output::say(&format!("warning: {warning}"));
    }
    if args.json {
        output::print_json(&as_json(&scores))?;
    } else {
        output::print(&table(&scores))?;
    }
    Ok(Exit::Ok)
}

/// The same predictions by TAT-LLM's metric, each as the sentence that says it.
fn leniently<'a>(questions: impl Iterator<Item = &'a Question>, predictions: &Predictions, official: Scores) -> Scores {
    let rows = questions.map(|question| {
        let score = match predictions.get(&question.uid) {
            Some(Prediction { items, scale }) => {
                let said = ResponseForm::TatQa.render_answer(items, scale.as_deref().unwrap_or_default());
                score_response(question, &said)
            }
            None => QuestionScore { uid: question.uid.clone(), em: 0.0, f1: 0.0, scale: 0.0 },
        };
        (question, score)
    });
    Scores { missing: official.missing, unknown: official.unknown, ..Scores::of(rows) }
}

fn warnings(scores: &Scores) -> Vec<String> {
    let mut found = Vec::new();
    if scores.missing > 0 {
        let (missing, all) = (scores.missing, scores.questions);
        found.push(format!("{missing} of {all} questions have no prediction; each counts as 0"));
    }
    if scores.unknown > 0 {
        let unknown = scores.unknown;
        found.push(format!("{unknown} predictions belong to no question of the gold file; they count nowhere"));
    }
    found
}

/// A word of the data format, as its serde name.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn as_json(scores: &Scores) -> Value {
    let mut by_type = Map::new();
    for pivot in &scores.pivots {
        let Pivot { answer_type, answer_from, questions, em, f1, scale } = pivot;
        let row = json!({ "questions": questions, "em": em, "f1": f1, "scale": scale });
        by_type.entry(word(answer_type)).or_insert_with(|| json!({}))[word(answer_from)] = row;
    }
    json!({
        "total": { "em": scores.em, "f1": scores.f1, "scale": scores.scale },
        "by_type": by_type,
        "questions": scores.questions,
        "missing": scores.missing,
        "unknown": scores.unknown,
    })
}

fn table(scores: &Scores) -> String {
    let row = |name: &str, questions: usize, em: f64, f1: f64, scale: f64| {
        format!("{name:<24} {questions:>9} {em:>7.2} {f1:>7.2} {scale:>7.2}\n")
    };
    let mut text = format!("{:<24} {:>9} {:>7} {:>7} {:>7}\n", "answers", "questions", "EM", "F1", "scale");
    for pivot in &scores.pivots {
        let name = format!("{} / {}", word(&pivot.answer_type), word(&pivot.answer_from));
        text += &row(&name, pivot.questions, pivot.em, pivot.f1, pivot.scale);
    }
    text + &row("all", scores.questions, scores.em, scores.f1, scores.scale)
}
