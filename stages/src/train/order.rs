//! Which examples each optimizer step sees: a seeded permutation for every epoch, cut into windows and micro-batches.
//!
//! Everything follows from the step's number, so that a resumed run needs no state. Unaware of what an example is.
use crate::random::Stream;
use std::ops::Range;

/// The order of examples over a whole training run.
#[derive(Debug, Clone)]
pub struct Order {
    seed: u64,
    examples: usize,
    batch_size: usize,
    accumulation: usize,
    /// The epoch whose permutation is at hand.
    current: Option<(u64, Vec<u32>)>,
}

impl Order {
    /// An order of `examples` (at least one) in micro-batches of `batch_size`, `accumulation` of them a step.
    pub fn new(seed: u64, examples: usize, batch_size: usize, accumulation: usize) -> Self {
        Self { seed, examples, batch_size: batch_size.max(1), accumulation: accumulation.max(1), current: None }
    }

    /// Optimizer steps in an epoch; the last may have a smaller window, as in transformers' Trainer.
    pub fn steps_per_epoch(&self) -> u64 {
        self.examples.div_ceil(self.batch_size * self.accumulation) as u64
    }

    /// Steps of a run of this many epochs, which need not be whole.
    pub fn total_steps(&self, epochs: f64) -> u64 {
        ((epochs * self.steps_per_epoch() as f64).ceil() as u64).max(1)
    }

    /// The micro-batches of a step (counted from 0), each a list of examples.
    pub fn window(&mut self, step: u64) -> Vec<Vec<u32>> {
        let per_epoch = self.steps_per_epoch().max(1);
        let (epoch, within) = (step / per_epoch, (step % per_epoch) as usize);
        let window = self.batch_size * self.accumulation;
        let range: Range<usize> = within * window..((within + 1) * window).min(self.examples);
        let (seed, examples, batch_size) = (self.seed, self.examples, self.batch_size);
        if self.current.as_ref().is_none_or(|(at, _)| *at != epoch) {
            let permutation = Stream::new(seed, &format!("order of epoch {epoch}")).permutation(examples);
            self.current = Some((epoch, permutation));
        }
        let permutation = self.current.as_ref().map_or(&[][..], |(_, permutation)| permutation);
        permutation.get(range).unwrap_or_default().chunks(batch_size).map(<[u32]>::to_vec).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_epoch_sees_every_example_once(seed: u64, examples in 1..50_usize, batch in 1..9_usize, accumulation in 1..5_usize) {
            let mut order = Order::new(seed, examples, batch, accumulation);
            let per_epoch = order.steps_per_epoch();
            for epoch in 0..3 {
                let mut seen: Vec<u32> = (0..per_epoch).flat_map(|s| order.window(epoch * per_epoch + s)).flatten().collect();
                seen.sort_unstable();
                prop_assert_eq!(seen, (0..examples as u32).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_step_is_the_same_whoever_asks_first(seed: u64, step in 0..40_u64) {
            let mut fresh = Order::new(seed, 17, 2, 3);
            let mut walked = Order::new(seed, 17, 2, 3);
            (0..step).for_each(|s| drop(walked.window(s)));
            prop_assert_eq!(fresh.window(step), walked.window(step));
        }

        #[test]
        fn accumulation_only_cuts_the_window(seed: u64, step in 0..10_u64) {
            let flat = |batch, accumulation| Order::new(seed, 21, batch, accumulation).window(step).concat();
            prop_assert_eq!(flat(8, 1), flat(4, 2));
            prop_assert_eq!(flat(8, 1), flat(1, 8));
        }
    }
}
