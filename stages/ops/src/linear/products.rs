//! The few products that `linear` is made of, on slices, and dropout. Unaware of tensors and tapes.

use super::Dropout;
use super::matvec::{FEW, matvec};
use crate::cpu::gemm::{Mat, On, gemm, product};
use crate::cpu::simd::simd_fn;
use crate::cpu::threads;

/// `x W^T`, `[rows, outs]`.
pub(super) fn forward(x: &[f32], rows: usize, width: usize, weight: &[f32], outs: usize) -> Vec<f32> {
    if (1..=FEW).contains(&rows) && width > 0 {
        return matvec(x, weight, width, outs);
    }
    product(1.0, Mat::new(x, rows, width), Mat::new(weight, outs, width).t(), On::Pool)
}

/// `y += scaling * u B^T`, `u [rows, r]`, `b [outs, r]`.
pub(super) fn add_branch(y: &mut [f32], scaling: f32, u: &[f32], rows: usize, b: &[f32], outs: usize, r: usize) {
    gemm(y, outs, true, scaling, Mat::new(u, rows, r), Mat::new(b, outs, r).t(), On::Pool);
}

/// The hash of `(key, index)`, uniform over u32: the finaliser of SplitMix64 (Steele et al., 2014).
#[inline(always)]
fn hash(key: u64, index: u64) -> u32 {
    let mut z = key.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 32) as u32
}

simd_fn! {
    fn drop_piece(data: &mut [f32], first: u64, key: u64, limit: u32, grow: f32) {
        for (i, x) in data.iter_mut().enumerate() {
            *x *= if hash(key, first + i as u64) < limit { 0.0 } else { grow };
        }
    }
}

/// Drops elements of `data` in place. A NaN or infinity stays visible: it is multiplied, not replaced.
pub(super) fn drop_out(data: &mut [f32], dropout: Dropout) {
    let limit = (f64::from(dropout.probability) * 4_294_967_296.0) as u32;
    let grow = (1.0 / (1.0 - f64::from(dropout.probability))) as f32;
    threads::for_rows(data, 1, |first, piece| drop_piece(piece, first as u64, dropout.key, limit, grow));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_drops_its_share_and_keeps_the_mean() {
        let mut data = vec![1.0f32; 100_000];
        drop_out(&mut data, Dropout { key: 7, probability: 0.1 });
        let dropped = data.iter().filter(|x| **x == 0.0).count();
        assert!((9_700..10_300).contains(&dropped), "{dropped}");
        let mean = data.iter().map(|x| f64::from(*x)).sum::<f64>() / 1e5;
        assert!((mean - 1.0).abs() < 0.005, "{mean}");
        let mut other = vec![1.0f32; 100_000];
        drop_out(&mut other, Dropout { key: 8, probability: 0.1 });
        let both = data.iter().zip(&other).filter(|(a, b)| **a == 0.0 && **b == 0.0).count();
        assert!((800..1_200).contains(&both), "keys are independent: {both}");
    }
}
