//! The slow twin of the fused head, in f64 loops. For tests.

/// The summed loss and the gradients of `scale` times it with respect to `x [tokens, width]` and `weight`.
pub fn linear_cross_entropy(
    x: &[f64],
    weight: &[f64],
    width: usize,
    rows: &[u32],
    targets: &[u32],
    scale: f64,
) -> (f64, Vec<f64>, Vec<f64>) {
    let (mut sum, mut d_x, mut d_weight) = (0.0, vec![0.0; x.len()], vec![0.0; weight.len()]);
    for (row, target) in rows.iter().zip(targets) {
        let at = *row as usize * width;
        let x = &x[at..at + width];
        let logits: Vec<f64> = weight.chunks(width).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|l| (l - largest).exp()).sum();
        sum += total.ln() + largest - logits[*target as usize];
        for (j, logit) in logits.iter().enumerate() {
            let p = (logit - largest).exp() / total;
            let d = scale * (p - f64::from(u8::from(j == *target as usize)));
            for i in 0..width {
                d_x[at + i] += d * weight[j * width + i];
                d_weight[j * width + i] += d * x[i];
            }
        }
    }
    (sum, d_x, d_weight)
}
