//! Stage `evaluate`: scores the answers of any number of models: TAT-QA by its official metric or by TAT-LLM's lenient one,
//! in total and by answer type and source, instruction rows by exact match and F1 of their words; with intervals, and
//! every two models compared.
//!
//! The metrics are `metric`; this file joins answers to references and writes files. Unaware of models.
mod comparison;
mod model;

use crate::artifact::{ANSWERS, DATASET, SCORES, write_lines};
use crate::data::dataset::Rows;
use crate::data::prompt::ResponseForm;
use crate::data::token_set::Split;
use crate::failure::OrFail;
use crate::infer::read_answers;
use crate::metric::{Gold, Metric};
use anneal_engine::stage::Problem;
use anneal_engine::{Failure, Param, ParamSet, Port, Stage, StageContext};
pub use comparison::{Change, Comparison, p_text};
pub use model::{Marked, ModelScores};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

anneal_engine::params! {
    /// Parameters of `evaluate`.
    pub struct EvaluateParams {
        /// Split of the data set whose questions were answered.
        split: Split = "eval";
        /// How answers to TAT-QA are scored. The other metric's totals are in scores.json as well.
        metric: Metric = "official";
        /// Form in which answers are read, TAT-QA only; an answer in another form is counted, and the official metric scores it 0.
        response: ResponseForm = "tat-qa";
        /// Name of the row in the report; the stage's own name without it. Of several models each has the name of its input.
        label: Option<String>;
    }
}

/// The stage kind `evaluate`.
#[derive(Debug)]
pub struct Evaluate;

/// The input of a stage that scores one model.
const ONE: &str = "answers";

const PORTS: &[Port] = &[
    Port { name: ONE, accepts: &[ANSWERS], required: false, doc: "what is scored" },
    Port { name: "dataset", accepts: &[DATASET], required: true, doc: "the reference answers" },
];

impl Stage for Evaluate {
    fn kind(&self) -> &'static str {
        "evaluate"
    }
    fn summary(&self) -> &'static str {
        "scores answers, TAT-QA by its official metric, instruction rows by EM and F1; compares models"
    }
    /// 2: intervals, both metrics, format failures and cut-off answers; several models.
    /// 1: first.
    fn version(&self) -> u32 {
        2
    }
    fn params(&self) -> Vec<Param> {
        EvaluateParams::params()
    }
    fn inputs(&self) -> &'static [Port] {
        PORTS
    }
    fn open_inputs(&self) -> bool {
        true
    }
    fn open_accepts(&self) -> &'static [&'static str] {
        &[ANSWERS]
    }
    fn output(&self, _: &Value) -> &'static str {
        SCORES
    }
    fn isolated(&self) -> bool {
        false
    }

    fn check(&self, _: &Value, connected: &[&str]) -> Vec<Problem> {
        if connected.iter().any(|port| *port != "dataset") {
            return Vec::new();
        }
        vec![Problem {
            at: vec!["inputs".to_owned()],
            message: "no answers are connected".to_owned(),
            hint: Some(
                "add `answers = \"...\"`, or several under names of your own: base = \"base_answers\", lora = \"lora_answers\""
                    .to_owned(),
            ),
            missing_file: false,
        }]
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<(), Failure> {
        let params: EvaluateParams = context.params()?;
        let Some(rows) = Rows::read(&context.require("dataset")?.dir, params.split).or_fail()? else {
            return Err(Failure::user(format!("the data set has no `{}` split", params.split.name()))
                .hint("set `split` to the split whose questions were answered"));
        };
        let pivoted = matches!(rows, Rows::TatQa(_));
        let gold = Gold::of(&rows);
        let models = context.inputs.iter().filter(|(port, _)| *port != "dataset");
        let marked = models
            .map(|(name, input)| Marked::new(name, read_answers(&input.dir)?, &gold, &params))
            .collect::<Result<Vec<Marked<'_>>, Failure>>()?;
        match marked.as_slice() {
            [one] if one.name == ONE => write_one(context, &params, one, pivoted),
            _ => write_all(context, &params, &marked, pivoted),
        }
    }
}

/// A model by itself: the files are about it alone.
fn write_one(
    context: &StageContext<'_>,
    params: &EvaluateParams,
    marked: &Marked<'_>,
    pivoted: bool,
) -> Result<(), Failure> {
    let scores = ModelScores::of(marked, params.metric, pivoted);
    scores.metrics().into_iter().for_each(|(name, value)| context.metric(name, value));
    context.note(scores.told());
    scores.warnings().iter().for_each(|warning| context.warn(warning));
    write_json(context, "predictions.json", &marked.predictions())?;
    write_lines(&context.out.join("per_question.jsonl"), marked.rows())?;
    write_json(context, "scores.json", &json!(scores))
}

/// Several models, and what tells them apart.
fn write_all(
    context: &StageContext<'_>,
    params: &EvaluateParams,
    marked: &[Marked<'_>],
    pivoted: bool,
) -> Result<(), Failure> {
    let mut models = Map::new();
    for one in marked {
        let scores = ModelScores::of(one, params.metric, pivoted);
        for (name, value) in scores.metrics() {
            context.metric(&format!("{}/{name}", one.name), value);
        }
        context.note(format!("{}, {}", one.name, scores.told()));
        scores.warnings().iter().for_each(|warning| context.warn(format!("{}: {warning}", one.name)));
        models.insert(one.name.to_owned(), json!(scores));
        write_json(context, &format!("predictions-{}.json", one.name), &one.predictions())?;
    }
    let comparisons = Comparison::of_all(marked);
    let most = marked.iter().map(|one| one.answers.len()).max().unwrap_or(0);
    let shared = comparisons.first().map_or(most, |comparison| comparison.questions);
    if shared < most {
        context.warn(format!("the models are compared on the {shared} questions that all of them answered"));
    }
    comparisons.iter().for_each(|comparison| context.note(comparison.to_string()));
    let rows = marked.iter().flat_map(|one| {
        one.rows().map(|row| {
            let mut named = Map::from_iter([("model".to_owned(), json!(one.name))]);
            named.extend(json!(row).as_object().cloned().unwrap_or_default());
            Value::Object(named)
        })
    });
    write_lines(&context.out.join("per_question.jsonl"), rows)?;
    let metric = params.metric.name();
    write_json(context, "scores.json", &json!({ "metric": metric, "models": models, "comparisons": comparisons }))
}

/// What the answers are held against, by uid.
fn by_uid(gold: &[(String, Gold)]) -> HashMap<&str, usize> {
    gold.iter().enumerate().map(|(at, (uid, _))| (uid.as_str(), at)).collect()
}

fn write_json(context: &StageContext<'_>, name: &str, value: &Value) -> Result<(), Failure> {
    let path = context.out.join(name);
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    std::fs::write(&path, text).map_err(|e| Failure::io("write", &path, &e))
}
