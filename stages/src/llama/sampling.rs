//! Drawing a token by its probability, with temperature, top-k and top-p in the order and with the meaning that
//! transformers gives them.
//!
//! The random number of a token is a function of seed, sequence and position: the same whatever else is drawn, in any order.
//! Unaware of models and of text.
use crate::random::Stream;

/// How to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0. Below 1 the likely become likelier.
    pub temperature: f64,
    /// Only so many of the most likely tokens; 0: all.
    pub top_k: usize,
    /// Only the fewest most likely tokens whose probabilities reach this sum; 1: all.
    pub top_p: f64,
    /// Of the random numbers.
    pub seed: u64,
}

/// Most likely tokens that are sorted at first to find where their sum reaches top-p; eight times as many if it does not.
const SORTED_FIRST: usize = 64;

impl Sampling {
    /// Draws the token at `position` of the sequence called `key`; none if a logit is NaN or none is finite.
    pub fn choose(&self, logits: &[f32], key: &str, position: usize) -> Option<u32> {
        let draw = Stream::new(self.seed, &format!("token {position} of {key}")).key() >> 11;
        self.pick(logits, draw as f64 / (1_u64 << 53) as f64)
    }

    /// The token at which the cumulated probability passes `draw`, from [0, 1).
    fn pick(&self, logits: &[f32], draw: f64) -> Option<u32> {
        let kept = self.kept(logits)?;
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let mut left = draw * total;
        for (id, weight) in &kept {
            if left < *weight {
                return Some(*id);
            }
            left -= weight;
        }
        // Rounding may leave a little behind the last.
        kept.iter().rev().find(|(_, weight)| *weight > 0.0).map(|(id, _)| *id)
    }

    /// The tokens that may be drawn, with weights proportional to their probabilities, in an order that depends on the
    /// logits only.
    fn kept(&self, logits: &[f32]) -> Option<Vec<(u32, f64)>> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return None;
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !largest.is_finite() {
            return None;
        }
        let weight = |logit: f32| ((f64::from(logit) - f64::from(largest)) / self.temperature).exp();
        let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(id, logit)| (id as u32, *logit)).collect();
        if self.top_k > 0 && self.top_k < all.len() {
            most_likely(&mut all, self.top_k);
            all.truncate(self.top_k);
        }
        let weigh = |all: &[(u32, f32)]| all.iter().map(|(id, logit)| (*id, weight(*logit))).collect::<Vec<_>>();
        if self.top_p >= 1.0 {
            return Some(weigh(&all));
        }
        let enough = self.top_p * all.iter().map(|(_, logit)| weight(*logit)).sum::<f64>();
        let mut sorted = SORTED_FIRST;
        loop {
            let count = sorted.min(all.len());
            most_likely(&mut all, count);
            let mut sum = 0.0;
            let reached = all[..count].iter().position(|(_, logit)| {
                sum += weight(*logit);
                sum >= enough
            });
            if let Some(last) = reached {
                return Some(weigh(&all[..=last]));
            }
            if count == all.len() {
                return Some(weigh(&all));
            }
            sorted *= 8;
        }
    }
}

/// Brings the `count` most likely to the front and sorts them; among equals the lower id comes first.
fn most_likely(all: &mut [(u32, f32)], count: usize) {
    let order =
        |a: &(u32, f32), b: &(u32, f32)| b.1.partial_cmp(&a.1).unwrap_or(std::cmp::Ordering::Equal).then(a.0.cmp(&b.0));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
    }
    all[..count].sort_unstable_by(order);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampling(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
        Sampling { temperature, top_k, top_p, seed: 7 }
    }

    /// Probabilities by the definition: softmax of the scaled logits, all sorted, cut by rank, then by what comes before.
    fn plain(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let scaled: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) / sampling.temperature).collect();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| scaled[*b].total_cmp(&scaled[*a]));
        if sampling.top_k > 0 {
            order.truncate(sampling.top_k);
        }
        let sum: f64 = order.iter().map(|id| scaled[*id].exp()).sum();
        let mut probabilities = vec![0.0; logits.len()];
        let mut before = 0.0;
        for id in order {
            if before < sampling.top_p {
                probabilities[id] = scaled[id].exp() / sum;
            }
            before += scaled[id].exp() / sum;
        }
        let sum: f64 = probabilities.iter().sum();
        probabilities.iter().map(|p| p / sum).collect()
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_the_definition_keeps(
            logits in prop::collection::vec(-8.0_f32..8.0, 1..300),
            temperature in 0.2_f64..3.0, top_k in 0_usize..40, top_p in 0.05_f64..1.0, draw in 0.0_f64..1.0,
        ) {
            let sampling = sampling(temperature, top_k, top_p);
            let want = plain(&sampling, &logits);
            let kept = sampling.kept(&logits).unwrap();
            let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
            let mut found = vec![0.0; logits.len()];
            kept.iter().for_each(|(id, weight)| found[*id as usize] = weight / total);
            for (found, want) in found.iter().zip(&want) {
                prop_assert!((found - want).abs() < 1e-9, "{found} {want}");
            }
            let id = sampling.pick(&logits, draw).unwrap();
            prop_assert!(want[id as usize] > 0.0);
        }
    }

    #[test]
    fn tokens_come_as_often_as_their_probabilities_say() {
        let logits = [1.0, 3.0, f32::NEG_INFINITY, 2.0, 0.0];
        for sampling in [sampling(1.0, 0, 1.0), sampling(0.5, 3, 1.0), sampling(2.0, 0, 0.8)] {
            let (want, draws) = (plain(&sampling, &logits), 20_000);
            let mut counts = [0_usize; 5];
            (0..draws).for_each(|i| counts[sampling.choose(&logits, "q", i).unwrap() as usize] += 1);
            // Five standard deviations of a binomial share.
            for (count, p) in counts.iter().zip(&want) {
                let (share, draws) = (*count as f64 / draws as f64, draws as f64);
                assert!((share - p).abs() <= 5.0 * (p * (1.0 - p) / draws).sqrt(), "{counts:?} {want:?}");
            }
        }
    }

    #[test]
    fn ties_go_to_the_lower_id_and_a_draw_is_fixed_by_seed_sequence_and_position() {
        let equal = [0.0_f32; 10];
        let kept: Vec<u32> = sampling(1.0, 3, 1.0).kept(&equal).unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(kept, [0, 1, 2]);
        let kept: Vec<u32> = sampling(1.0, 0, 0.35).kept(&equal).unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(kept, [0, 1, 2, 3]);
        let wide = vec![0.0_f32; 10_000];
        let all = |seed, key: &str| -> Vec<u32> {
            let sampling = Sampling { seed, ..sampling(1.0, 0, 1.0) };
            (0..8).map(|position| sampling.choose(&wide, key, position).unwrap()).collect()
        };
        assert_eq!(all(7, "a"), all(7, "a"));
        assert!(all(7, "a") != all(8, "a") && all(7, "a") != all(7, "b"));
        let ids = all(7, "a");
        assert!(ids.iter().any(|id| *id != ids[0]), "positions differ: {ids:?}");
    }

    #[test]
    fn logits_without_a_largest_are_refused() {
        let sampling = sampling(1.0, 2, 0.9);
        assert_eq!(sampling.choose(&[0.0, f32::NAN], "q", 0), None);
        assert_eq!(sampling.choose(&[0.0, f32::INFINITY], "q", 0), None);
        assert_eq!(sampling.choose(&[f32::NEG_INFINITY; 2], "q", 0), None);
        assert_eq!(sampling.choose(&[f32::NEG_INFINITY, 1.0], "q", 0), Some(1));
    }
}
