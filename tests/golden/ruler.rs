//! How far a result may be from the golden, by device: in f32 fixed small bounds, in bf16 multiples of torch-bf16's own
//! error against f32 (`fixtures/golden/bf16_error.json`, where `bf16_error.py` says what each number is).
//!
//! Every error in bf16 is printed beside torch's, on success too (`--nocapture` shows it); all that fail are told at
//! once, at the end of the test. Unaware of models.
use crate::case::{max_error, relative_l2, relative_l2_of_all};
use crate::yardsticks::yardsticks;
use anneal_ops::{Backend, Memory, act_to_vec};
use anneal_stages::llama::{Batch, Model};
use serde_json::Value;
use std::cell::RefCell;

/// max|a-b| <= LIMIT * max|b| for every tensor, in f32.
pub(crate) const LIMIT: f64 = 1e-5;
/// What bf16 may have of torch-bf16's error, in outputs and in gradients (and what follows from gradients).
pub(crate) const OUTPUTS: f64 = 2.0;
pub(crate) const GRADIENTS: f64 = 3.0;

/// A tensor's name, our values, and those that it should have.
pub(crate) type Compared = (String, Vec<f32>, Vec<f32>);

/// What broke a bound in any case of a test; fails the test when it goes away.
#[derive(Default)]
pub(crate) struct Findings(RefCell<Vec<String>>);

impl Drop for Findings {
    fn drop(&mut self) {
        let broken = self.0.take();
        if !std::thread::panicking() {
            assert!(broken.is_empty(), "{}", broken.join("\n"));
        }
    }
}

/// The bounds of one case.
pub(crate) struct Ruler<'a> {
    case: String,
    /// torch-bf16's errors in this case; none where we compute in f32.
    torch: Option<Value>,
    findings: &'a Findings,
}

impl<'a> Ruler<'a> {
    /// For a device; `place` is a JSON pointer into the file.
    pub(crate) fn new<B: Memory>(findings: &'a Findings, case: &str, place: &str) -> Self {
        let torch = (!B::NUMERICS.ends_with("f32")).then(|| {
            let found = yardsticks().pointer(place).cloned();
            found.unwrap_or_else(|| panic!("bf16_error.json has no {place}: make it with bf16_error.py"))
        });
        Self { case: case.to_owned(), torch, findings }
    }

    /// Whether the device computes in f32.
    pub(crate) fn exact(&self) -> bool {
        self.torch.is_none()
    }

    /// torch-bf16's number; 0 where we compute in f32.
    pub(crate) fn torch(&self, key: &str) -> f64 {
        let number = |torch: &Value| torch.pointer(key).and_then(Value::as_f64);
        self.torch.as_ref().map_or(0.0, |t| number(t).unwrap_or_else(|| panic!("bf16_error.json: no {key}")))
    }

    /// `error` must be at most `f32_limit`, or in bf16 `factor` times torch's `yardstick`.
    pub(crate) fn check(&self, what: &str, error: f64, f32_limit: f64, factor: f64, yardstick: f64) {
        let limit = if self.exact() { f32_limit } else { factor * yardstick };
        if !self.exact() {
            println!(
                "{:<18} {what:<52} {error:9.2e}  torch {yardstick:9.2e}  ratio {:5.2} of {factor}",
                self.case,
                error / yardstick
            );
        }
        // A NaN is not within any limit.
        if error.is_nan() || error > limit {
            self.findings
                .0
                .borrow_mut()
                .push(format!("{}: {what} differs by {error:.2e}, limit {limit:.2e}", self.case));
        }
    }

    /// A condition that has no size.
    pub(crate) fn require(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.findings.0.borrow_mut().push(format!("{}: {}", self.case, what()));
        }
    }

    /// Logits `[rows of the batch, vocabulary]`, and the losses of their labelled tokens.
    pub(crate) fn logits(&self, what: &str, ours: &[f32], golden: &[f32], batch: &Batch) {
        if self.exact() {
            return self.check(what, max_error(ours, golden), LIMIT, 0.0, 0.0);
        }
        self.check(&format!("{what}, l2"), relative_l2(ours, golden), 0.0, OUTPUTS, self.torch("/logits/l2"));
        self.check(&format!("{what}, max"), max_error(ours, golden), 0.0, OUTPUTS, self.torch("/logits/max"));
        let (ours, golden) = (token_losses(ours, batch), token_losses(golden, batch));
        let squares: f64 = ours.iter().zip(&golden).map(|(a, b)| (a - b).powi(2)).sum();
        let (count, mean) = (golden.len() as f64, golden.iter().sum::<f64>() / golden.len() as f64);
        let error = (squares / count).sqrt() / mean;
        self.check(&format!("{what}, token losses"), error, 0.0, OUTPUTS, self.torch("/token_loss"));
    }

    /// Logits of some rows.
    pub(crate) fn some_logits(&self, ours: &[f32], golden: &[f32]) {
        // Of one row the 2-norm is its own yardstick too: torch's was taken over all rows.
        let error = if self.exact() { max_error(ours, golden) } else { relative_l2(ours, golden) };
        self.check("logits against transformers", error, LIMIT, OUTPUTS, self.torch("/logits/l2"));
    }

    /// A mean loss. In bf16 the yardstick is the rms error of one token's loss, because the mean's is a matter of luck.
    pub(crate) fn loss(&self, what: &str, ours: f64, golden: f64, f32_limit: f64) {
        let yardstick = self.torch("/token_loss");
        self.check(what, (ours - golden).abs() / golden, f32_limit, OUTPUTS, yardstick);
    }

    /// The loss of a step of training, counted from 0; in bf16 what torch lost in these steps counts too.
    pub(crate) fn step_loss(&self, index: usize, ours: f64, golden: f64) {
        let yardstick = if self.exact() { 0.0 } else { self.torch("/token_loss").max(self.torch("/steps_loss")) };
        self.check(&format!("loss of step {}", index + 1), (ours - golden).abs() / golden, 1e-4, OUTPUTS, yardstick);
    }

    /// The norm of all gradients, which differs by at most the norm of their difference.
    pub(crate) fn norm(&self, what: &str, ours: f64, golden: f64, f32_limit: f64) {
        self.check(what, (ours - golden).abs() / golden, f32_limit, GRADIENTS, self.torch("/gradients/all"));
    }

    /// A greedy continuation. In f32 it is the golden one. In bf16 it may leave it where f32 itself nearly hesitates:
    /// where the logits of both tokens are no further apart than two logits with twice torch's largest error can move.
    pub(crate) fn greedy<M: Backend>(
        &self,
        what: &str,
        prompt: &[u32],
        ours: &[u32],
        golden: &[u32],
        reference: impl Fn() -> Model<M>,
    ) {
        let differing = ours.iter().zip(golden).position(|(a, b)| a != b);
        let equal = differing.unwrap_or(ours.len().min(golden.len()));
        if self.exact() || ours.len() != golden.len() {
            return self.require(ours == golden, || format!("{what}: greedy ids {ours:?} instead of {golden:?}"));
        }
        println!(
            "{:<18} {what}: {equal} of {} greedy ids, torch {}",
            self.case,
            golden.len(),
            self.torch("/greedy_equal")
        );
        let Some(at) = differing else { return };
        let ids = [prompt, &golden[..at]].concat();
        let batch = Batch::pack([(&ids[..], &vec![0; ids.len()][..])]).unwrap();
        let model = reference();
        let logits = act_to_vec(&model.logits(&batch).unwrap());
        let largest = logits.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
        let last = &logits[logits.len() - model.config().vocab_size..];
        let margin = f64::from((last[golden[at] as usize] - last[ours[at] as usize]) / largest);
        let limit = 2.0 * OUTPUTS * self.torch("/logits/max");
        println!(
            "{:<18} {what}: f32 prefers the golden id by {margin:.2e} of the largest logit, allowed {limit:.2e}",
            self.case
        );
        self.require(margin <= limit, || {
            format!("{what}: token {at} is not nearly a tie ({margin:.2e} > {limit:.2e})")
        });
    }

    /// Gradients: in f32 the largest difference of each, in bf16 the 2-norm of each and of all together. Prints the
    /// whole and the worst.
    pub(crate) fn gradients(&self, what: &str, all: &[Compared]) {
        if self.exact() {
            for (name, ours, golden) in all {
                self.check(name, max_error(ours, golden), LIMIT, 0.0, 0.0);
            }
            return;
        }
        let error = relative_l2_of_all(all.iter().map(|(_, ours, golden)| (&ours[..], &golden[..])));
        self.check(&format!("{what}, all"), error, 0.0, GRADIENTS, self.torch("/gradients/all"));
        // A JSON pointer would take a `/` in a name for a step; there is none.
        let mut errors: Vec<(f64, f64, &str)> = all
            .iter()
            .map(|(name, a, b)| (relative_l2(a, b), self.torch(&format!("/gradients/{name}")), name.as_str()))
            .collect();
        errors.sort_by(|a, b| (b.0 / b.1).total_cmp(&(a.0 / a.1)));
        for (index, (error, yardstick, name)) in errors.into_iter().enumerate() {
            // Those within the bound are not printed one by one.
            if index == 0 || error.is_nan() || error > GRADIENTS * yardstick {
                self.check(&format!("{what}, {name}"), error, 0.0, GRADIENTS, yardstick);
            }
        }
    }
}

/// Negative log-likelihood of each labelled token, in f64.
fn token_losses(logits: &[f32], batch: &Batch) -> Vec<f64> {
    let width = logits.len() / batch.ids.len();
    let loss = |row: &u32, target: &u32| {
        let row = &logits[*row as usize * width..][..width];
        let max = row.iter().fold(f64::NEG_INFINITY, |max, x| max.max(f64::from(*x)));
        let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
        max + sum.ln() - f64::from(row[*target as usize])
    };
    batch.rows.iter().zip(&batch.targets).map(|(row, target)| loss(row, target)).collect()
}
