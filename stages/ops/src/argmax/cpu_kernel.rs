//! The greedy choice on the CPU. Unaware of tokens.

use dfdx::prelude::Cpu;
use dfdx::shapes::HasShape;

use super::{ArgmaxKernel, argmax};
use crate::OpError;
use crate::backend::{Act, Weight};
use crate::cpu::gemm::{Mat, On, gemm};
use crate::cpu::slice;

/// Rows whose logits are held at a time.
const HELD_ROWS: usize = 64;

fn ids(logits: &[f32], width: usize) -> impl Iterator<Item = Option<u32>> {
    logits.chunks_exact(width).map(|row| argmax(row).ok().and_then(|id| u32::try_from(id).ok()))
}

impl ArgmaxKernel for Cpu {
    fn argmax_kernel(&self, logits: &Act<Self>) -> Result<Vec<Option<u32>>, OpError> {
        Ok(ids(slice::matrix("argmax", logits)?, logits.shape().1).collect())
    }

    fn linear_argmax_kernel(&self, x: &Act<Self>, weight: &Weight<Self>) -> Result<Vec<Option<u32>>, OpError> {
        let (&(rows, width), &(vocabulary, _)) = (x.shape(), weight.shape());
        let head = Mat::new(slice::matrix("argmax", weight)?, vocabulary, width).t();
        let mut logits = vec![0.0; HELD_ROWS.min(rows) * vocabulary];
        let mut best = Vec::with_capacity(rows);
        for x in slice::matrix("argmax", x)?.chunks(HELD_ROWS * width) {
            let count = x.len() / width;
            let logits = &mut logits[..count * vocabulary];
            gemm(logits, vocabulary, false, 1.0, Mat::new(x, count, width), head, On::Pool);
            best.extend(ids(logits, vocabulary));
        }
        Ok(best)
    }
}
