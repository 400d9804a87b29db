//! `anneal: metric NAME VALUE` lines on a program's standard output.
//!
//! Unaware of who reads the metrics.

/// How a line begins that tells a metric.
const BEGIN: &[u8] = b"anneal: metric ";
/// A longer line tells none.
pub(super) const LONGEST: usize = 512;
/// Complaints that are kept; a loop may print the same mistake a million times.
const COMPLAINTS: usize = 5;

/// What is told so far, the last value of each name.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) values: std::collections::BTreeMap<String, f64>,
    pub(super) complaints: Vec<String>,
}

/// Whether a line means to tell a metric.
pub(super) fn is_metric(line: &[u8]) -> bool {
    line.starts_with(BEGIN)
}

impl Metrics {
    /// Takes a line that tells a metric, or a complaint about it.
    pub(super) fn take(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line.strip_prefix(BEGIN).unwrap_or(line));
        let words: Vec<&str> = text.split_whitespace().collect();
        let told = match words.as_slice() {
            [name, value] if named(name) => {
                value.parse::<f64>().ok().filter(|value| value.is_finite()).map(|v| (*name, v))
            }
            _ => None,
        };
        match told {
            Some((name, value)) => drop(self.values.insert(name.to_owned(), value)),
            None if self.complaints.len() < COMPLAINTS => self.complaints.push(format!(
                "not recorded: `{}`; a metric is `anneal: metric NAME VALUE`, the name of letters, digits, `_`, `-`, \
                 `.` and `/`, the value a finite number",
                text.trim().chars().take(80).collect::<String>()
            )),
            None => {}
        }
    }
}

fn named(name: &str) -> bool {
    name.len() <= 100 && name.chars().all(|c| c.is_alphanumeric() || "_-./".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_numbers_with_a_plain_name_are_metrics() {
        let mut metrics = Metrics::default();
        for line in ["a 1", "a  2.5", "b/c.d-e_f -1e-3", "\u{e4} 3 \r"] {
            assert!(is_metric(format!("anneal: metric {line}").as_bytes()));
            metrics.take(format!("anneal: metric {line}").as_bytes());
        }
        assert!(metrics.complaints.is_empty(), "{:?}", metrics.complaints);
        let values: Vec<(&str, f64)> = metrics.values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(values, [("a", 2.5), ("b/c.d-e_f", -1e-3), ("\u{e4}", 3.0)]);
        for line in ["a", "a NaN", "a inf", "a 1e999", "a 1 2", "a=1", "", "a,b 1", "a one"] {
            let before = metrics.complaints.len();
            metrics.complaints.truncate(COMPLAINTS - 1);
            metrics.take(format!("anneal: metric {line}").as_bytes());
            assert!(metrics.complaints.len() > before.min(COMPLAINTS - 1), "{line}");
        }
        assert_eq!(metrics.values.len(), 3);
        assert!(!is_metric(b" anneal: metric a 1") && !is_metric(b"anneal: metrics"));
    }
}
