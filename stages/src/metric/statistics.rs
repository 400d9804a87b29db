//! How sure one may be: intervals of means and of differences of means, and a test between two models that answered the
//! same questions. Unaware of what the values measure.
//!
//! Intervals are percentile intervals of the bootstrap (Efron and Tibshirani 1993, chapter 13): the questions are drawn
//! anew, with replacement, [`RESAMPLES`] times, and of the resulting means the middle 95 % is told. Two models are
//! compared on the same draws ("paired", Koehn 2004), so what makes a question hard for both cancels out. What is drawn
//! depends on the number of questions alone, so equal answers give equal intervals everywhere.
//!
//! The test is McNemar's (1947) in its exact form: of the questions that one model alone answers rightly each would go to
//! either model with probability 1/2 if both were equally good; p is the two-sided binomial probability of a split at
//! least as uneven.

use serde::{Deserialize, Serialize};

use crate::random::Stream;

/// How often the questions are drawn anew.
pub const RESAMPLES: usize = 10_000;
/// Fixed: an interval is a property of the answers, not of an experiment.
const SEED: u64 = 0;
/// What lies outside an interval on each side.
const TAIL: f64 = 0.025;

/// The middle 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// Means of resampled questions, the same draws for every series of values.
#[derive(Debug, Clone)]
pub struct Resampled {
    /// By series, then by draw.
    means: Vec<Vec<f64>>,
}

impl Resampled {
    /// Draws from series of equal length: a value for each question.
    #[must_use]
    pub fn new(series: &[Vec<f64>]) -> Self {
        let questions = series.iter().map(Vec::len).min().unwrap_or(0);
        let mut means = vec![Vec::with_capacity(RESAMPLES); series.len()];
        let mut stream = Stream::new(SEED, "bootstrap");
        let mut sums = vec![0.0; series.len()];
        for _ in 0..if questions == 0 { 0 } else { RESAMPLES } {
            sums.fill(0.0);
            for _ in 0..questions {
                let drawn = stream.below(u32::try_from(questions).unwrap_or(u32::MAX)) as usize;
                sums.iter_mut().zip(series).for_each(|(sum, values)| *sum += values[drawn]);
            }
            means.iter_mut().zip(&sums).for_each(|(means, sum)| means.push(sum / questions as f64));
        }
        Self { means }
    }

    /// The interval of a series' mean; `None` without questions.
    #[must_use]
    pub fn mean(&self, series: usize) -> Option<Interval> {
        middle(self.means.get(series)?.clone())
    }

    /// The interval of the mean difference from the first series to the second.
    #[must_use]
    pub fn difference(&self, first: usize, second: usize) -> Option<Interval> {
        let pairs = self.means.get(first)?.iter().zip(self.means.get(second)?);
        middle(pairs.map(|(first, second)| second - first).collect())
    }
}

fn middle(mut values: Vec<f64>) -> Option<Interval> {
    values.sort_unstable_by(f64::total_cmp);
    let outside = (values.len() as f64 * TAIL) as usize;
    let (low, high) = (values.get(outside)?, values.get(values.len() - 1 - outside)?);
    Some(Interval { low: *low, high: *high })
}

/// Two-sided p of McNemar's exact test for `gained` questions that only the second model answers rightly and `lost` that
/// only the first does.
#[must_use]
pub fn mcnemar(gained: usize, lost: usize) -> f64 {
    let all = gained + lost;
    // ln C(all, i) - all ln 2, from one i to the next.
    let mut term = -(all as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=gained.min(lost) {
        if i > 0 {
            term += ((all - i + 1) as f64 / i as f64).ln();
        }
        tail += term.exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_is_the_exact_binomial_probability() {
        // scipy.stats.binomtest(k, n, 0.5).pvalue
        for (gained, lost, expected) in [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (5, 0, 0.0625),
            (3, 3, 1.0),
            (10, 2, 0.038_574_218_75),
            (2, 10, 0.038_574_218_75),
            (60, 40, 0.056_887_933_640_980_8),
        ] {
            assert!((mcnemar(gained, lost) - expected).abs() < 1e-12, "{gained} {lost} {}", mcnemar(gained, lost));
        }
        let tiny = mcnemar(1600, 0);
        assert!((0.0..1e-300).contains(&tiny));
    }

    #[test]
    fn an_interval_is_that_of_the_normal_approximation_where_that_holds() {
        let half: Vec<f64> = (0..1600).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let interval = Resampled::new(&[half]).mean(0).unwrap();
        // 1.96 * sqrt(0.25 / 1600) = 0.0245.
        assert!((interval.low - 0.4755).abs() < 0.0015 && (interval.high - 0.5245).abs() < 0.0015, "{interval:?}");
    }

    #[test]
    fn pairing_removes_what_both_share_and_draws_are_the_same_every_time() {
        let first: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let mut second = first.clone();
        second[..8].fill(1.0);
        let resampled = Resampled::new(&[first.clone(), second.clone()]);
        let paired = resampled.difference(0, 1).unwrap();
        assert!(paired.low >= 0.0 && paired.high < 0.03, "{paired:?}");
        assert_eq!(paired, Resampled::new(&[first, second]).difference(0, 1).unwrap());
        let back = resampled.difference(1, 0).unwrap();
        assert!((back.low + paired.high).abs() < 1e-12 && (back.high + paired.low).abs() < 1e-12);
        assert_eq!(Resampled::new(&[Vec::new()]).mean(0), None);
        assert_eq!(Resampled::new(&[vec![1.0]]).mean(0), Some(Interval { low: 1.0, high: 1.0 }));
    }
}
