//! Stage `evaluate`: scores answers with the official TAT-QA metric: exact match, F1 and scale, in total and by answer
//! type and source; answers to instruction rows by exact match and F1 of their words.
//!
//! The metric is `metric`; this file reads answers into the official prediction format. Unaware of models.
use crate::artifact::{ANSWERS, DATASET, SCORES, read_lines, write_lines};
use crate::data::dataset::Rows;
use crate::data::instruct::Conversation;
use crate::data::prompt::ResponseForm;
use crate::data::token_set::Split;
use crate::failure::OrFail;
use crate::infer::Answer;
use crate::metric::exact::{TextScore, score_text};
use crate::metric::{self, Predictions};
use anneal_engine::{Failure, Param, ParamSet, Port, Stage, StageContext};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;

anneal_engine::params! {
    /// Parameters of `evaluate`.
    pub struct EvaluateParams {
        /// Split of the data set whose questions were answered.
        split: Split = "eval";
        /// Form in which answers are read, TAT-QA only; an answer in another form scores 0.
        response: ResponseForm = "tat-qa";
        /// Name of the row in the report; the stage's own name without it.
        label: Option<String>;
    }
}

/// The stage kind `evaluate`.
#[derive(Debug)]
pub struct Evaluate;

const PORTS: &[Port] = &[
    Port { name: "answers", accepts: &[ANSWERS], required: true, doc: "what is scored" },
    Port { name: "dataset", accepts: &[DATASET], required: true, doc: "the reference answers" },
];

impl Stage for Evaluate {
    fn kind(&self) -> &'static str {
        "evaluate"
    }
    fn summary(&self) -> &'static str {
        "scores answers: TAT-QA by its official metric (EM, F1, scale), instruction rows by EM and F1"
    }
    /// 1: first.
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        EvaluateParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn output(&self, _: &Value) -> &'static str {
        SCORES
    }
    fn isolated(&self) -> bool {
        false
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: EvaluateParams = context.params()?;
        let answers: Vec<Answer> = read_lines(&context.require("answers")?.dir.join("answers.jsonl"))?;
        let rows = Rows::read(&context.require("dataset")?.dir, params.split).or_fail()?;
        let contexts = match rows {
            Some(Rows::TatQa(contexts)) => contexts,
            Some(Rows::Instruct(rows)) => return instruct(context, &params, &answers, &rows),
            None => {
                return Err(Failure::user(format!("the data set has no `{}` split", params.split.name()))
                    .hint("set `split` to the split whose questions were answered"));
            }
        };
        // Only what was asked is scored: three sids are three questions, not three of 1,668.
        let asked: HashSet<&str> = answers.iter().map(|answer| answer.uid.as_str()).collect();
        let questions: Vec<_> =
            contexts.iter().flat_map(|c| &c.questions).filter(|q| asked.contains(q.uid.as_str())).collect();
        if questions.len() != asked.len() {
            return Err(foreign(asked.len(), questions.len(), &params));
        }
        let mut predictions = Map::new();
        let mut formed = 0;
        for answer in &answers {
            // An answer in no known form is an empty prediction: it scores 0 and stays in the denominator.
            let prediction = match params.response.parse_answer(&answer.answer) {
                Some((items, scale)) => {
                    formed += 1;
                    json!([items, scale])
                }
                None => json!([[], ""]),
            };
            predictions.insert(answer.uid.clone(), prediction);
        }
        let predictions = Value::Object(predictions);
        let parsed = Predictions::parse(&predictions.to_string(), Path::new("predictions.json")).or_fail()?;
        let scores = metric::score(questions, &parsed);
        context.metric("em", scores.em);
        context.metric("f1", scores.f1);
        context.metric("scale", scores.scale);
        context.metric("answers", answers.len() as f64);
        context.metric("formed", 100.0 * f64::from(formed) / answers.len().max(1) as f64);
        write_json(context, "predictions.json", &predictions)?;
        write_lines(&context.out.join("per_question.jsonl"), &scores.per_question)?;
        let mut summary = serde_json::to_value(&scores).unwrap_or_default();
        if let Some(summary) = summary.as_object_mut() {
            summary.remove("per_question");
        }
        write_json(context, "scores.json", &summary)
    }
}

/// Answers of questions that the data set does not have.
fn foreign(asked: usize, found: usize, params: &EvaluateParams) -> Failure {
    let split = params.split.name();
    Failure::user(format!(
        "{asked} answers, but only {found} of their questions are in split `{split}` of the data set"
    ))
    .hint("connect the data set that the answers' tokens were made of")
}

/// Scores answers to instruction rows against the last answer of each.
fn instruct(
    context: &StageContext<'_>,
    params: &EvaluateParams,
    answers: &[Answer],
    rows: &[Conversation],
) -> Result<(), Failure> {
    let gold: HashMap<&str, &str> = rows.iter().map(|row| (row.uid.as_str(), row.last().1)).collect();
    let score = |answer: &Answer| Some(score_text(&answer.uid, &answer.answer, gold.get(answer.uid.as_str())?));
    let scores: Vec<TextScore> = answers.iter().filter_map(score).collect();
    if scores.len() != answers.len() {
        return Err(foreign(answers.len(), scores.len(), params));
    }
    let mean = |of: fn(&TextScore) -> f64| 100.0 * scores.iter().map(of).sum::<f64>() / scores.len().max(1) as f64;
    let (em, f1) = (mean(|score| score.em), mean(|score| score.f1));
    context.metric("em", em);
    context.metric("f1", f1);
    context.metric("answers", scores.len() as f64);
    let predictions: Map<String, Value> = answers.iter().map(|a| (a.uid.clone(), json!(a.answer))).collect();
    write_json(context, "predictions.json", &Value::Object(predictions))?;
    write_lines(&context.out.join("per_question.jsonl"), &scores)?;
    write_json(context, "scores.json", &json!({"questions": scores.len(), "em": em, "f1": f1}))
}

fn write_json(context: &StageContext<'_>, name: &str, value: &Value) -> Result<(), Failure> {
    let path = context.out.join(name);
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    std::fs::write(&path, text).map_err(|e| Failure::io("write", &path, &e))
}
