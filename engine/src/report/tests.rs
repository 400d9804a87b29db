//! Rows, columns and where their values come from.
use super::*;
use crate::graph::{Header, Node};
use crate::stage::Problem;
use crate::{Failure, Param, Port, Source, Stage, StageContext};
use serde_json::{Value, json};

struct Kind(&'static str);

impl Stage for Kind {
    fn kind(&self) -> &'static str {
        self.0
    }
    fn summary(&self) -> &'static str {
        ""
    }
    fn version(&self) -> u32 {
        1
    }
    fn params(&self) -> Vec<Param> {
        Vec::new()
    }
    fn inputs(&self) -> &'static [Port] {
        &[]
    }
    fn output(&self, _: &Value) -> &'static str {
        "any"
    }
    fn isolated(&self) -> bool {
        false
    }
    fn check(&self, _: &Value, _: &[&str]) -> Vec<Problem> {
        Vec::new()
    }
    fn sources(&self, _: &Value) -> Result<Vec<Source>, Vec<Problem>> {
        Ok(Vec::new())
    }
    fn run(&self, _: &mut StageContext<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

/// The model that LoRA and FFT start from, and all three answering.
fn pipeline() -> Pipeline {
    let node = |name: &str, kind: &'static str, inputs: &[u32], params: Value| {
        let inputs = inputs.iter().enumerate().map(|(i, from)| (format!("p{i}"), StageId(*from))).collect();
        Node::plain(name.to_owned(), Arc::new(Kind(kind)), params, inputs)
    };
    let stages = vec![
        node("base", "load", &[], json!({})),
        node("lora", "train-lora", &[0], json!({})),
        node("lora-answers", "infer", &[0, 1], json!({})),
        node("base-answers", "infer", &[0], json!({})),
        node("lora-score", "evaluate", &[2], json!({"label": "LoRA r=16"})),
        node("base-score", "evaluate", &[3], json!({"label": null})),
        node("merged", "consolidate", &[0, 1], json!({})),
    ];
    Pipeline::new(Header::default(), stages).unwrap()
}

fn done(metrics: &[(&str, f64)]) -> Known {
    let digest = Digest::new([1; 32]);
    let record = Record {
        key: digest,
        kind: String::new(),
        version: 1,
        artifact: String::new(),
        output: digest,
        files: Vec::new(),
        keep: crate::options::Keep::All,
        metrics: metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        seconds: 12.5,
        peak_mib: Some(1536.0),
        started: 0.0,
        finished: 0.0,
        pid: 1,
        hardware: None,
        document: Value::Null,
    };
    Known { state: StageState::Done, key: Some(digest), record: Some(Arc::new(record)), lost: None }
}

fn stands(state: StageState) -> Known {
    Known { state, key: None, record: None, lost: None }
}

fn table(report: &Report) -> String {
    let titles: Vec<&str> = report.columns.iter().map(|column| &*column.title).collect();
    let mut lines = vec![titles.join(" | ")];
    for row in &report.results {
        let cell =
            |column: &Column| row.values.get(&*column.name).map_or("-".to_owned(), |value| column.format.text(*value));
        let cells: Vec<String> = report.columns.iter().map(cell).collect();
        lines.push(format!("{}: {} ({})", row.label, cells.join(" | "), row.status));
    }
    lines.join("\n")
}

#[test]
fn each_leaf_has_a_row_with_its_own_line_of_training() {
    let known = [
        done(&[("parameters", 5.0)]),
        done(&[("train_loss", 0.25), ("eval_loss", 0.5), ("tokens_per_second", 12345.6)]),
        done(&[("answers", 300.0), ("infer_seconds", 4.0)]),
        done(&[("answers", 300.0), ("infer_seconds", 3.0), ("peak_mib", 77.0)]),
        done(&[("em", 41.333), ("f1", 50.0)]),
        done(&[("em", 0.0), ("f1", 1.0)]),
        done(&[]),
    ];
    insta::assert_snapshot!(table(&report(&pipeline(), &known)), @r"
    train loss | eval loss | train s | tokens/s | peak MiB | EM | F1 | answers | infer s
    LoRA r=16: 0.2500 | 0.5000 | 12.5 | 12,346 | 1,536 | 41.33 | 50.00 | 300 | 4.0 (done)
    base-score: - | - | - | - | - | 0.00 | 1.00 | 300 | 3.0 (done)
    ");
}

#[test]
fn what_is_missing_has_a_row_that_says_why() {
    let known = [
        done(&[]),
        stands(StageState::Failed(Failure::new(crate::FailureClass::Oom, "stage `lora`: killed"))),
        stands(StageState::Skipped("lora".to_owned())),
        done(&[("answers", 300.0)]),
        stands(StageState::Skipped("lora".to_owned())),
        stands(StageState::Waiting),
        stands(StageState::Interrupted),
    ];
    let report = report(&pipeline(), &known);
    insta::assert_snapshot!(table(&report), @r"
    answers
    LoRA r=16: - (oom)
    base-score: 300 (waiting)
    merged: - (interrupted)
    ");
    assert_eq!(report.stages[1].status.to_string(), "oom");
}

#[test]
fn counts_are_grouped() {
    for (value, text) in
        [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1234567.0, "1,234,567"), (-1234.0, "-1,234"), (-0.1, "0")]
    {
        assert_eq!(Format::Count.text(value), text);
    }
    assert_eq!(Format::Count.text(f64::INFINITY), "inf");
    assert_eq!(Format::Count.text(f64::NAN), "NaN");
}
