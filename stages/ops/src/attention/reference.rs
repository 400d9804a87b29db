//! The slow twin of `attention`, in f64 loops straight from the definition. For tests.

use super::{Heads, Layout};

/// The output for f64 `q`, `k`, `v`, rows of all heads side by side.
pub fn attention(q: &[f64], k: &[f64], v: &[f64], heads: Heads, layout: &Layout) -> Vec<f64> {
    let (dim, q_width, kv_width) = (heads.head_dim, heads.q_width(), heads.kv_width());
    let mut out = vec![0.0; q.len()];
    for segment in layout.segments() {
        for row in segment.rows() {
            let seen: Vec<usize> = segment.prefix_rows().chain(segment.start..=row).collect();
            for head in 0..heads.n_heads {
                let (q_at, kv_at) = (row * q_width + head * dim, head / heads.group() * dim);
                let score = |j: &usize| -> f64 {
                    (0..dim).map(|i| q[q_at + i] * k[j * kv_width + kv_at + i]).sum::<f64>() / (dim as f64).sqrt()
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                for (j, s) in seen.iter().zip(&scores) {
                    for i in 0..dim {
                        out[q_at + i] += (s - largest).exp() / sum * v[j * kv_width + kv_at + i];
                    }
                }
            }
        }
    }
    out
}
