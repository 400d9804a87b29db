//! Questions to a report: rows that fulfil conditions, in an order, and the best of them.
//!
//! Unaware of how rows look.
use super::{COLUMNS, Column, Report, ResultRow, StageState};
use crate::Failure;
use crate::options::mebibytes;
use serde_json::Value;
use std::cmp::Ordering;

/// A condition on a row: `peak_mib<=40 GiB`, `batch_size=4`, `state=done`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    key: String,
    how: How,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Is(bool),
    Below { also_equal: bool },
    Above { also_equal: bool },
}

/// What a row has under a key.
#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Number(f64),
    Words(String),
}

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// It has no comparison.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        const SIGNS: [(&str, How); 6] = [
            ("<=", How::Below { also_equal: true }),
            (">=", How::Above { also_equal: true }),
            ("!=", How::Is(false)),
            ("<", How::Below { also_equal: false }),
            (">", How::Above { also_equal: false }),
            ("=", How::Is(true)),
        ];
        let first = text.find(['<', '>', '!', '=']);
        let sign =
            first.and_then(|at| SIGNS.iter().find(|(sign, _)| text[at..].starts_with(sign)).map(|found| (at, found)));
        let Some((at, (sign, how))) = sign.filter(|(at, _)| !text[..*at].trim().is_empty()) else {
            return Err(Failure::user(format!("`{text}` is no condition"))
                .hint("write KEY and a value with one of = != < <= > >= between, such as `peak_mib<=40 GiB`"));
        };
        let value = text[at + sign.len()..].trim().to_owned();
        Ok(Self { key: text[..at].trim().to_owned(), how: *how, value })
    }

    /// The condition's number; an amount of memory is in MiB.
    fn number(&self) -> Option<f64> {
        self.value.parse().ok().or_else(|| mebibytes(&self.value).map(|mib| mib as f64))
    }

    fn holds(&self, cell: Option<&Cell>) -> bool {
        let order = match (cell, self.number()) {
            (Some(Cell::Number(have)), Some(asked)) => have.partial_cmp(&asked),
            (Some(Cell::Words(have)), _) => Some(have.as_str().cmp(&self.value)),
            (Some(Cell::Number(_)) | None, _) => None,
        };
        match self.how {
            How::Is(wanted) => (order == Some(Ordering::Equal)) == wanted,
            How::Below { also_equal } => order == Some(Ordering::Less) || also_equal && order == Some(Ordering::Equal),
            How::Above { also_equal } => {
                order == Some(Ordering::Greater) || also_equal && order == Some(Ordering::Equal)
            }
        }
    }
}

/// Leaves the rows that fulfil all conditions.
///
/// # Errors
/// A key is none of the report's.
pub fn filter(report: &mut Report, conditions: &[Condition]) -> Result<(), Failure> {
    for condition in conditions {
        known(report, &condition.key)?;
    }
    report.results.retain(|row| conditions.iter().all(|c| c.holds(cell(row, &c.key).as_ref())));
    Ok(())
}

/// Orders the rows by a key, the best first: what is better for a metric, the smallest for a swept value. A `-` in front
/// turns it around. Rows without a value come last.
///
/// # Errors
/// The key is none of the report's.
pub fn sort(report: &mut Report, key: &str) -> Result<(), Failure> {
    let (name, turned) = key.strip_prefix('-').map_or((key, false), |name| (name, true));
    known(report, name)?;
    let column = COLUMNS.iter().find(|column| column.name == name);
    let down = column.is_some_and(|column| column.more_is_better) != turned;
    report.results.sort_by(|a, b| match (cell(a, name), cell(b, name)) {
        (Some(a), Some(b)) => {
            let order = match (&a, &b) {
                (Cell::Number(a), Cell::Number(b)) => a.total_cmp(b),
                (Cell::Words(a), Cell::Words(b)) => a.cmp(b),
                (Cell::Number(_), Cell::Words(_)) => Ordering::Less,
                (Cell::Words(_), Cell::Number(_)) => Ordering::Greater,
            };
            if down { order.reverse() } else { order }
        }
        (a, b) => a.is_none().cmp(&b.is_none()),
    });
    Ok(())
}

/// The best row that is done, by a metric.
///
/// # Errors
/// The metric is none of the report's columns.
pub fn best<'a>(report: &'a Report, metric: &str) -> Result<Option<&'a ResultRow>, Failure> {
    let Some(column) = report.columns.iter().find(|column| column.name == metric) else {
        let names: Vec<&str> = report.columns.iter().map(|column| &*column.name).collect();
        return Err(Failure::user(format!("there is no column `{metric}`"))
            .hint(format!("the columns are {}", names.join(", "))));
    };
    Ok(best_of(report, column))
}

/// The best row that is done, by a column.
pub fn best_of<'a>(report: &'a Report, column: &Column) -> Option<&'a ResultRow> {
    let rows = report.results.iter().filter(|row| row.status == StageState::Done);
    let valued =
        rows.filter_map(|row| Some((row, *row.values.get(&*column.name)?))).filter(|(_, value)| !value.is_nan());
    // Of equal ones the first.
    let better = |a: f64, b: f64| if column.more_is_better { b > a } else { b < a };
    valued.reduce(|best, next| if better(best.1, next.1) { next } else { best }).map(|(row, _)| row)
}

fn known(report: &Report, key: &str) -> Result<(), Failure> {
    let own = ["state", "label", "stage", "cell"];
    // A metric that nothing here measured is a question with an empty answer; an unknown word is a mistake.
    let columns = COLUMNS.iter().chain(&report.columns).map(|column| &*column.name);
    let mut names: Vec<&str> = report.axes.iter().map(String::as_str).chain(columns).chain(own).collect();
    if names.contains(&key) {
        return Ok(());
    }
    names.sort_unstable();
    names.dedup();
    Err(Failure::user(format!("a row of this report has no `{key}`")).hint(format!("it has {}", names.join(", "))))
}

fn cell(row: &ResultRow, key: &str) -> Option<Cell> {
    if let Some(value) = row.setting.get(key) {
        return Some(match value {
            Value::Number(number) => Cell::Number(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => Cell::Words(text.clone()),
            other => Cell::Words(other.to_string()),
        });
    }
    match key {
        "state" => Some(Cell::Words(row.status.to_string())),
        "label" => Some(Cell::Words(row.label.clone())),
        "stage" => Some(Cell::Words(row.stage.clone())),
        "cell" => row.cell.clone().map(Cell::Words),
        metric => row.values.get(metric).copied().map(Cell::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(batch: u32, seconds: f64, mib: f64, done: bool) -> ResultRow {
        let failure = Failure::new(crate::FailureClass::Oom, "no");
        ResultRow {
            label: "lora".to_owned(),
            stage: format!("score[{batch}]"),
            cell: Some(format!("{batch:08x}")),
            setting: [("batch_size".to_owned(), json!(batch))].into(),
            trained_by: None,
            values: if done {
                [("train_seconds".to_owned(), seconds), ("peak_mib".to_owned(), mib)].into()
            } else {
                [].into()
            },
            status: if done { StageState::Done } else { StageState::Failed(failure) },
        }
    }

    fn report() -> Report {
        Report {
            experiment: "x".to_owned(),
            axes: vec!["batch_size".to_owned()],
            columns: COLUMNS.to_vec(),
            results: vec![
                row(1, 9.0, 1000.0, true),
                row(2, 5.0, 30_000.0, true),
                row(4, 4.0, 50_000.0, true),
                row(8, 0.0, 0.0, false),
            ],
            stages: Vec::new(),
        }
    }

    fn left(report: &Report) -> Vec<&str> {
        report.results.iter().map(|row| row.stage.as_str()).collect()
    }

    #[test]
    fn the_fastest_that_fits() {
        let mut all = report();
        assert_eq!(best(&all, "train_seconds").unwrap().unwrap().stage, "score[4]");
        filter(&mut all, &[Condition::parse("peak_mib <= 40 GiB").unwrap()]).unwrap();
        assert_eq!(left(&all), ["score[1]", "score[2]"]);
        assert_eq!(best(&all, "train_seconds").unwrap().unwrap().stage, "score[2]");
        assert!(best(&all, "speed").is_err());
    }

    #[test]
    fn conditions_compare_numbers_and_words() {
        for (text, rows) in [
            ("batch_size>=4", 2),
            ("batch_size<4", 2),
            ("batch_size!=4", 3),
            ("state=oom", 1),
            ("state!=done", 1),
            ("cell=00000002", 1),
            ("em>0", 0),
        ] {
            let mut all = report();
            filter(&mut all, &[Condition::parse(text).unwrap()]).unwrap();
            assert_eq!(all.results.len(), rows, "{text}");
        }
        for wrong in ["batch_size", "=4", "", "<="] {
            assert!(Condition::parse(wrong).is_err(), "{wrong}");
        }
        assert!(filter(&mut report(), &[Condition::parse("speed=1").unwrap()]).is_err());
    }

    #[test]
    fn rows_are_ordered_and_those_without_a_value_come_last() {
        let mut all = report();
        sort(&mut all, "train_seconds").unwrap();
        assert_eq!(left(&all), ["score[4]", "score[2]", "score[1]", "score[8]"]);
        sort(&mut all, "-train_seconds").unwrap();
        assert_eq!(left(&all), ["score[1]", "score[2]", "score[4]", "score[8]"]);
        sort(&mut all, "-batch_size").unwrap();
        assert_eq!(left(&all)[0], "score[8]");
    }
}
