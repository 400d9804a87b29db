//! Stage `evaluate`: scores answers with the official TAT-QA metric: exact match, F1 and scale, in total and by answer
//! type and source.
//!
//! The metric is `metric`; this file reads answers into the official prediction format. Unaware of models.
use crate::artifact::{ANSWERS, DATASET, SCORES, read_lines, write_lines};
use crate::data::prompt::ResponseForm;
use crate::data::tatqa;
use crate::data::token_set::Split;
use crate::failure::OrFail;
use crate::infer::Answer;
use crate::metric::{self, Predictions};
use anneal_engine::{Failure, Param, ParamSet, Port, Stage, StageContext};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;

anneal_engine::params! {
    /// Parameters of `evaluate`.
    pub struct EvaluateParams {
        /// Split of the data set whose questions were answered.
        split: Split = "eval";
        /// Form in which answers are read; an answer in another form scores 0.
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
        "scores answers with the official TAT-QA metric (EM, F1, scale)"
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
        let dataset = context.require("dataset")?.dir.join(format!("{}.json", params.split.name()));
        let contexts = tatqa::read(&dataset).or_fail()?;
        // Only what was asked is scored: three sids are three questions, not three of 1,668.
        let asked: HashSet<&str> = answers.iter().map(|answer| answer.uid.as_str()).collect();
        let questions: Vec<_> =
            contexts.iter().flat_map(|c| &c.questions).filter(|q| asked.contains(q.uid.as_str())).collect();
        if questions.len() != asked.len() {
            return Err(Failure::user(format!(
                "{} answers, but only {} of their questions are in split `{}` of the data set",
                asked.len(),
                questions.len(),
                params.split.name()
            ))
            .hint("connect the data set that the answers' tokens were made of"));
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

fn write_json(context: &StageContext<'_>, name: &str, value: &Value) -> Result<(), Failure> {
    let path = context.out.join(name);
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    std::fs::write(&path, text).map_err(|e| Failure::io("write", &path, &e))
}
