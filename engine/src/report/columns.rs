//! The metrics that have a column: their order, titles and formats, and where in a line of stages they come from.
//!
//! Metrics without a column are in the report's JSON. Unaware of pipelines.
use crate::graph::Node;
use crate::store::Record;
use serde::Serialize;
use std::borrow::Cow;

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// With so many decimals.
    Decimals(usize),
    /// Whole, thousands apart.
    Count,
    /// As many digits as it takes.
    Shortest,
}

impl Format {
    /// The number as text.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Decimals(decimals) => format!("{value:.decimals$}"),
            Self::Count => grouped(value),
            Self::Shortest => format!("{value}"),
        }
    }
}

/// Which stage of a line a column is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum From {
    /// The nearest that trained.
    Training,
    /// The nearest that measured it, up to the nearest that trained.
    SinceTraining,
    /// The nearest that measured it.
    Nearest,
}

/// A column of results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Name of the metric.
    pub name: Cow<'static, str>,
    /// Title, with the unit.
    pub title: Cow<'static, str>,
    /// How a value is written.
    pub format: Format,
    /// Which stage it is about.
    pub from: From,
    /// Larger values are better.
    pub more_is_better: bool,
}

const fn column(name: &'static str, title: &'static str, format: Format, from: From) -> Column {
    Column { name: Cow::Borrowed(name), title: Cow::Borrowed(title), format, from, more_is_better: false }
}

impl Column {
    const fn more_is_better(mut self) -> Self {
        self.more_is_better = true;
        self
    }

    /// Of a metric that a program of the user's measured; what is better of it is unknown.
    pub(super) fn of_command(name: &str) -> Self {
        let (name, title) = (Cow::Owned(name.to_owned()), Cow::Owned(name.to_owned()));
        Self { name, title, format: Format::Shortest, from: From::Nearest, more_is_better: false }
    }
}

/// All columns, in order.
pub const COLUMNS: &[Column] = &[
    column("train_loss", "train loss", Format::Decimals(4), From::Training),
    column("eval_loss", "eval loss", Format::Decimals(4), From::SinceTraining),
    column("train_seconds", "train s", Format::Decimals(1), From::Training),
    column("tokens_per_second", "tokens/s", Format::Count, From::Training).more_is_better(),
    column("peak_mib", "peak MiB", Format::Count, From::Training),
    column("gpu_peak_mib", "GPU peak MiB", Format::Count, From::Training),
    column("last_step", "last step", Format::Count, From::Training),
    column("em", "EM", Format::Decimals(2), From::Nearest).more_is_better(),
    column("f1", "F1", Format::Decimals(2), From::Nearest).more_is_better(),
    column("scale", "scale", Format::Decimals(2), From::Nearest).more_is_better(),
    column("answers", "answers", Format::Count, From::Nearest).more_is_better(),
    column("infer_seconds", "infer s", Format::Decimals(1), From::Nearest),
];

impl Column {
    /// Its value in the record of a stage that trained. Time and memory are in every record, measured or not.
    pub(super) fn of(&self, record: &Record) -> Option<f64> {
        record.metrics.get(&*self.name).copied().or(match &*self.name {
            "train_seconds" => Some(record.seconds),
            "peak_mib" => record.peak_mib,
            _ => None,
        })
    }
}

/// Whether a stage trains: it measured a training loss, or its kind says so before it has run.
pub(super) fn trains(node: &Node, record: Option<&std::sync::Arc<Record>>) -> bool {
    record.map_or(node.kind.kind().starts_with("train"), |record| record.metrics.contains_key("train_loss"))
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        // Not for `inf` and `NaN`.
        if i > 0 && (digits.len() - i).is_multiple_of(3) && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 && digits != "0" { format!("-{text}") } else { text }
}
