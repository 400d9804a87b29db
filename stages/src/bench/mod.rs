//! What `anneal bench` measures: training steps, generation, loading and tokenizing of any model shape.
//!
//! Each measurement runs the code that the stages run, on the same types; nothing here is a second implementation.
//! Unaware of the command line, of manifests and of the store.
pub mod flops;
pub mod generate;
pub mod load;
pub mod questions;
pub mod shape;
pub mod subject;
pub mod tokenize;
pub mod train;

pub use shape::BenchModel;

use crate::random::Stream;

/// Token ids that look like text to a model: uniform over its vocabulary, the same for the same seed.
fn random_ids(seed: u64, label: &str, count: usize, vocabulary: usize) -> Vec<u32> {
    let mut stream = Stream::new(seed, label);
    (0..count).map(|_| stream.below(vocabulary.max(1) as u32)).collect()
}

/// The middle of some measurements; the mean of the middle two where their number is even. 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (count, middle) if count % 2 == 1 => sorted[middle],
        (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!((median(&[]), median(&[3.0]), median(&[4.0, 1.0, 2.0]), median(&[4.0, 1.0])), (0.0, 3.0, 2.0, 2.5));
    }

    #[test]
    fn ids_are_in_the_vocabulary_and_fixed_by_the_seed() {
        let ids = random_ids(1, "prompt", 1000, 17);
        assert!(ids.iter().all(|id| *id < 17) && ids.contains(&0) && ids.contains(&16));
        assert_eq!(ids, random_ids(1, "prompt", 1000, 17));
        assert_ne!(ids, random_ids(2, "prompt", 1000, 17));
    }
}
