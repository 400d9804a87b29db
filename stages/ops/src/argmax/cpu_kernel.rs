//! The greedy choice on the CPU. Unaware of tokens.

use dfdx::prelude::Cpu;
use dfdx::shapes::HasShape;

use super::{ArgmaxKernel, argmax};
use crate::OpError;
use crate::backend::{Act, Weight};
use crate::cpu::slice;
use crate::linear::row_products;

/// Rows whose logits are held at a time.
const HELD_ROWS: usize = 64;

fn ids(logits: &[f32], width: usize) -> impl Iterator<Item = Option<u32>> {
    logits.chunks_exact(width).map(|row| argmax(row).ok().and_then(|id| u32::try_from(id).ok()))
}

impl ArgmaxKernel for Cpu {
    fn argmax_kernel(&self, logits: &Act<Self>) -> Result<Vec<Option<u32>>, OpError> {
        Ok(ids(slice::matrix("argmax", logits)?, logits.shape().1).collect())
    }

    type Ids = Vec<Option<u32>>;
    const READ_EVERY: usize = 1;

    fn linear_argmax_ids(&self, x: &Act<Self>, weight: &Weight<Self>) -> Result<Self::Ids, OpError> {
        let (&(rows, width), &(vocabulary, _)) = (x.shape(), weight.shape());
        let weight = slice::matrix("argmax", weight)?;
        let mut best = Vec::with_capacity(rows);
        for x in slice::matrix("argmax", x)?.chunks(HELD_ROWS * width) {
            best.extend(ids(&row_products(x, weight, width, vocabulary), vocabulary));
        }
        Ok(best)
    }

    fn read_ids(&self, ids: &Self::Ids) -> Result<Vec<Option<u32>>, OpError> {
        Ok(ids.clone())
    }
}
