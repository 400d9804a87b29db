//! The fused head on the CPU.
//!
//! Logits of a chunk are kept transposed, `[vocabulary, rows of the chunk]`: the head's weight is then read in place
//! (gemm would have to pack its transpose), and the softmax runs down columns, so vectors hold neighbouring rows and
//! nothing is folded. Exponentials are not normalised: `1 / sum` is applied to the small products instead.

use dfdx::prelude::Cpu;
use dfdx::shapes::HasShape;
use rayon::prelude::*;

use super::{CrossEntropyKernel, HeadGradients, LossSum, Wanted};
use crate::OpError;
use crate::backend::{Act, Buffer, Weight};
use crate::cpu::gemm::{Mat, On, gemm};
use crate::cpu::memory::{buffer, expect_len};
use crate::cpu::simd::{self, exp, simd_fn};
use crate::cpu::{slice, threads};

const OP: &str = "linear_cross_entropy";

/// Logits held at a time, about (32 MiB).
const HELD: usize = 8 << 20;

/// Vocabulary rows a thread takes at a time, and that are summed in f32 before f64 takes over.
const PIECE: usize = 1024;
const SHORT: usize = 64;

/// Labelled rows of a chunk: enough that reading the whole head for them pays, few enough that logits stay small, a
/// multiple of gemm's largest tile (64). Depends on the vocabulary only.
fn chunk_rows(vocabulary: usize) -> usize {
    (HELD / vocabulary.max(1)).clamp(64, 256) / 64 * 64
}

simd_fn! {
    fn column_max(logits: &[f32], best: &mut [f32]) {
        for row in logits.chunks_exact(best.len()) {
            for (best, x) in best.iter_mut().zip(row) {
                *best = if *x > *best { *x } else { *best };
            }
        }
    }
}

simd_fn! {
    /// `x = e^(x - shift)` in place; adds each column up in `short`.
    fn column_exp(logits: &mut [f32], shift: &[f32], short: &mut [f32]) {
        for row in logits.chunks_exact_mut(shift.len()) {
            for ((x, shift), sum) in row.iter_mut().zip(shift).zip(short.iter_mut()) {
                *x = exp::<FMA>(*x - *shift);
                *sum += *x;
            }
        }
    }
}

fn piece_max(logits: &[f32], rows: usize) -> Vec<f32> {
    let mut best = vec![f32::NEG_INFINITY; rows];
    column_max(logits, &mut best);
    best
}

fn piece_exp(logits: &mut [f32], shift: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0f64; shift.len()];
    let mut short = vec![0.0f32; shift.len()];
    for rows in logits.chunks_mut(SHORT * shift.len()) {
        short.fill(0.0);
        column_exp(rows, shift, &mut short);
        for (sum, short) in sums.iter_mut().zip(&short) {
            *sum += f64::from(*short);
        }
    }
    sums
}

/// Turns logits into `e^(logit - largest)`; returns each column's largest and sum.
fn exponentials(logits: &mut [f32], rows: usize) -> (Vec<f32>, Vec<f64>) {
    let each = PIECE * rows;
    let pool = logits.len() >= threads::LIGHT && threads::count() > 1;
    let bests: Vec<Vec<f32>> = if pool {
        logits.par_chunks(each).map(|piece| piece_max(piece, rows)).collect()
    } else {
        logits.chunks(each).map(|piece| piece_max(piece, rows)).collect()
    };
    let mut shift = vec![f32::NEG_INFINITY; rows];
    bests.iter().for_each(|best| column_max(best, &mut shift));
    let sums: Vec<Vec<f64>> = if pool {
        logits.par_chunks_mut(each).map(|piece| piece_exp(piece, &shift)).collect()
    } else {
        logits.chunks_mut(each).map(|piece| piece_exp(piece, &shift)).collect()
    };
    let mut sum = vec![0.0f64; rows];
    for piece in &sums {
        sum.iter_mut().zip(piece).for_each(|(sum, piece)| *sum += piece);
    }
    (shift, sum)
}

/// Rows of one chunk, gathered.
fn gather(x: &[f32], width: usize, rows: &[u32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for row in rows {
        out.extend_from_slice(&x[*row as usize * width..][..width]);
    }
    out
}

impl CrossEntropyKernel for Cpu {
    fn cross_entropy_forward(
        &self,
        x: &Act<Self>,
        rows: &[u32],
        targets: &[u32],
        weight: &Weight<Self>,
        wanted: Option<Wanted>,
    ) -> Result<(LossSum, Option<HeadGradients<Self>>), OpError> {
        let &(vocabulary, width) = weight.shape();
        let (x, w) = (slice::matrix(OP, x)?, slice::matrix(OP, weight)?);
        let mut loss = LossSum { count: rows.len(), ..LossSum::default() };
        let mut d_rows = vec![0.0; if wanted.is_some() { rows.len() * width } else { 0 }];
        let mut d_weight = wanted.filter(|wanted| wanted.weight).map(|_| vec![0.0; w.len()]);
        let each = chunk_rows(vocabulary);
        let mut logits = vec![0.0; vocabulary * each.min(rows.len())];
        for (chunk, (rows, targets)) in rows.chunks(each).zip(targets.chunks(each)).enumerate() {
            let count = rows.len();
            let mut inputs = gather(x, width, rows);
            let logits = &mut logits[..vocabulary * count];
            let head = Mat::new(w, vocabulary, width);
            gemm(logits, count, false, 1.0, head, Mat::new(&inputs, count, width).t(), On::Pool);
            let at_target: Vec<f32> =
                targets.iter().enumerate().map(|(i, target)| logits[*target as usize * count + i]).collect();
            let (largest, sum) = exponentials(logits, count);
            for (i, at_target) in at_target.iter().enumerate() {
                let nll = sum[i].ln() + f64::from(largest[i]) - f64::from(*at_target);
                if !nll.is_finite() && loss.first_non_finite.is_none() {
                    loss.first_non_finite = Some(chunk * each + i);
                }
                loss.sum += nll;
            }
            let Some(Wanted { scale, .. }) = wanted else { continue };
            let d_rows = &mut d_rows[chunk * each * width..][..count * width];
            let p = Mat::new(logits, vocabulary, count);
            gemm(d_rows, width, false, 1.0, p.t(), head, On::Pool);
            for (i, target) in targets.iter().enumerate() {
                let factor = (f64::from(scale) / sum[i]) as f32;
                let (d_row, target) = (&mut d_rows[i * width..][..width], *target as usize * width);
                simd::scale(d_row, factor);
                simd::axpy(d_row, -scale, &w[target..target + width]);
                if let Some(d_weight) = &mut d_weight {
                    let input = &mut inputs[i * width..][..width];
                    simd::axpy(&mut d_weight[target..target + width], -scale, input);
                    simd::scale(input, factor);
                }
            }
            if let Some(d_weight) = &mut d_weight {
                gemm(d_weight, width, true, 1.0, p, Mat::new(&inputs, count, width), On::Pool);
            }
        }
        let gradients = match wanted {
            None => None,
            Some(_) => {
                let weight = d_weight.map(|d_weight| buffer(self, d_weight)).transpose()?;
                Some(HeadGradients { rows: buffer(self, d_rows)?, weight })
            }
        };
        Ok((loss, gradients))
    }

    fn cross_entropy_held(&self, rows: usize, (vocabulary, width): (usize, usize), _: Option<Wanted>) -> usize {
        // Logits, and the gathered rows of a chunk.
        chunk_rows(vocabulary).min(rows) * (vocabulary + width) * size_of::<f32>()
    }

    fn cross_entropy_backward(
        &self,
        rows: &[u32],
        width: usize,
        d_rows: &Buffer<Self>,
        d_x: &mut Buffer<Self>,
    ) -> Result<(), OpError> {
        expect_len(OP, d_rows.len(), rows.len() * width)?;
        for (i, row) in rows.iter().enumerate() {
            simd::add_assign(&mut d_x[*row as usize * width..][..width], &d_rows[i * width..][..width]);
        }
        Ok(())
    }
}
