//! The slow twin of `attention` and its gradients, in f64 loops straight from the definition. For tests.

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

/// The gradients of q, k and v for the gradient `d` of the output: the chain rule through the softmax, key by key.
pub fn gradients(q: &[f64], k: &[f64], v: &[f64], d: &[f64], heads: Heads, layout: &Layout) -> [Vec<f64>; 3] {
    let (dim, q_width, kv_width) = (heads.head_dim, heads.q_width(), heads.kv_width());
    let scale = 1.0 / (dim as f64).sqrt();
    let [mut d_q, mut d_k, mut d_v] = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let rows = layout.segments().iter().flat_map(|segment| segment.rows().map(move |row| (segment, row)));
    for (segment, row) in rows {
        let seen: Vec<usize> = segment.prefix_rows().chain(segment.start..=row).collect();
        for head in 0..heads.n_heads {
            let at = row * q_width + head * dim;
            let key = |j: &usize| j * kv_width + head / heads.group() * dim;
            let (q, d) = (&q[at..at + dim], &d[at..at + dim]);
            let scores: Vec<f64> = seen.iter().map(|j| dot(q, &k[key(j)..][..dim]) * scale).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - largest).exp() / sum).collect();
            let d_p: Vec<f64> = seen.iter().map(|j| dot(d, &v[key(j)..][..dim])).collect();
            let mean = dot(&p, &d_p);
            for ((j, p), d_p) in seen.iter().zip(&p).zip(&d_p) {
                let (d_s, from) = (p * (d_p - mean) * scale, key(j));
                for i in 0..dim {
                    d_q[at + i] += d_s * k[from + i];
                    d_k[from + i] += d_s * q[i];
                    d_v[from + i] += p * d[i];
                }
            }
        }
    }
    [d_q, d_k, d_v]
}
