//! Look-up on the CPU: copies of rows; backward on one thread, since ids repeat.

use dfdx::prelude::{Cpu, TensorFromVec};
use dfdx::shapes::HasShape;

use super::EmbeddingKernel;
use crate::OpError;
use crate::backend::{Act, Buffer, Weight};
use crate::cpu::memory::expect_len;
use crate::cpu::{simd, slice};

impl EmbeddingKernel for Cpu {
    fn embedding_forward(&self, ids: &[u32], weight: &Weight<Self>) -> Result<Act<Self>, OpError> {
        let width = weight.shape().1;
        let table = slice::matrix("embedding", weight)?;
        let mut out = Vec::with_capacity(ids.len() * width);
        for id in ids {
            let first = *id as usize * width;
            out.extend_from_slice(&table[first..first + width]);
        }
        self.try_tensor_from_vec(out, (ids.len(), width)).map_err(OpError::device)
    }

    fn embedding_next(&self, ids: &Vec<Option<u32>>, weight: &Weight<Self>) -> Result<Act<Self>, OpError> {
        let ids: Vec<u32> = ids.iter().map(|id| id.unwrap_or(0)).collect();
        if let Some(id) = ids.iter().find(|id| **id as usize >= weight.shape().0) {
            return Err(OpError::OutOfRange {
                op: "embedding",
                what: "token id",
                index: *id as usize,
                limit: weight.shape().0,
            });
        }
        self.embedding_forward(&ids, weight)
    }

    fn embedding_backward(
        &self,
        ids: &[u32],
        width: usize,
        d: &Buffer<Self>,
        d_weight: &mut Buffer<Self>,
    ) -> Result<(), OpError> {
        expect_len("embedding", d.len(), ids.len() * width)?;
        if width == 0 {
            return Ok(());
        }
        for (id, d) in ids.iter().zip(d.chunks_exact(width)) {
            let first = *id as usize * width;
            simd::add_assign(&mut d_weight[first..first + width], d);
        }
        Ok(())
    }
}
