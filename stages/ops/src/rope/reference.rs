//! The slow twin of `rope`, in f64 loops: dfdx's `slice`, of which one would compose it, has a wrong gradient on the
//! CPU (its backward overwrites). For tests.

/// `x [positions.len(), heads * 2 * inv_freq.len()]` rotated; by the negative angles if `back`.
pub fn rope(x: &[f64], inv_freq: &[f32], positions: &[u32], back: bool) -> Vec<f64> {
    let half = inv_freq.len();
    let mut out = x.to_vec();
    let width = x.len() / positions.len().max(1);
    for (row, position) in out.chunks_exact_mut(width.max(1)).zip(positions) {
        for head in row.chunks_exact_mut(2 * half) {
            for (i, f) in inv_freq.iter().enumerate() {
                let angle = f64::from(*position as f32 * f) * if back { -1.0 } else { 1.0 };
                let (x, y) = (head[i], head[i + half]);
                head[i] = x * angle.cos() - y * angle.sin();
                head[i + half] = y * angle.cos() + x * angle.sin();
            }
        }
    }
    out
}
