//! Reproducible random numbers: BLAKE3 in its extendable-output mode, keyed by a seed and a label.
//!
//! A stream depends on its seed and label alone, so tensors and epochs can be drawn in any order, on any number of
//! threads, on any machine. Unaware of what is drawn.

/// A stream of random numbers.
#[derive(Debug)]
pub struct Stream {
    reader: blake3::OutputReader,
    buffer: [u8; 4096],
    used: usize,
}

impl Stream {
    /// The stream of this seed and label; other labels give independent streams.
    pub fn new(seed: u64, label: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("anneal 2026 random stream v1");
        hasher.update(&seed.to_le_bytes()).update(label.as_bytes());
        Self { reader: hasher.finalize_xof(), buffer: [0; 4096], used: 4096 }
    }

    fn next_u32(&mut self) -> u32 {
        if self.used == self.buffer.len() {
            self.reader.fill(&mut self.buffer);
            self.used = 0;
        }
        let bytes = self.buffer[self.used..].first_chunk::<4>().copied().unwrap_or_default();
        self.used += 4;
        u32::from_le_bytes(bytes)
    }

    /// A key for counter-based draws.
    pub fn key(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// Uniform on [0, 1) with 24 bits, the precision of f32.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Standard normal (Box and Muller 1958), computed in f64.
    pub fn normal(&mut self) -> f32 {
        // 1 - u lies in (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - f64::from(self.uniform())).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.uniform())).cos()) as f32
    }

    /// Uniform on 0..bound, without bias (rejection); `bound` must not be 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        let limit = u32::MAX - u32::MAX % bound;
        loop {
            let draw = self.next_u32();
            if draw < limit {
                return draw % bound;
            }
        }
    }

    /// A random order of 0..n (Fisher and Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            let j = self.below(i as u32 + 1) as usize;
            order.swap(i, j);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_fixed_by_seed_and_label() {
        let draw = |seed, label| Stream::new(seed, label).permutation(8);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        let mut sorted = draw(7, "order");
        sorted.sort_unstable();
        assert_eq!(sorted, (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut stream = Stream::new(42, "moments");
        let n = 100_000;
        let normals: Vec<f64> = (0..n).map(|_| f64::from(stream.normal())).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(n);
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        let uniform = (0..n).map(|_| f64::from(stream.uniform())).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 0.01, "{uniform}");
    }
}
