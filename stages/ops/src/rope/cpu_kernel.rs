//! Rotary positions on the CPU: memory-bound, rows on all threads when large.

use dfdx::prelude::{Cpu, TensorFromVec};
use dfdx::shapes::HasShape;

use super::{RopeKernel, Rotation};
use crate::OpError;
use crate::backend::{Act, Buffer};
use crate::cpu::memory::expect_len;
use crate::cpu::simd::{fma, simd_fn};
use crate::cpu::{build, slice, threads};

simd_fn! {
    /// Rotates the heads of one row in place.
    fn rotate(row: &mut [f32], cos: &[f32], sin: &[f32]) {
        for head in row.chunks_exact_mut(2 * cos.len()) {
            let (low, high) = head.split_at_mut(cos.len());
            for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let (x, y) = (*a, *b);
                *a = fma::<FMA>(x, *c, -(y * *s));
                *b = fma::<FMA>(y, *c, x * *s);
            }
        }
    }
}

simd_fn! {
    /// `d_x += d` rotated back, for the heads of one row.
    fn rotate_back(d_x: &mut [f32], d: &[f32], cos: &[f32], sin: &[f32]) {
        for (d_x, d) in d_x.chunks_exact_mut(2 * cos.len()).zip(d.chunks_exact(2 * cos.len())) {
            let (x_low, x_high) = d_x.split_at_mut(cos.len());
            let (low, high) = d.split_at(cos.len());
            for (((((a, b), x), y), c), s) in x_low.iter_mut().zip(x_high).zip(low).zip(high).zip(cos).zip(sin) {
                *a += fma::<FMA>(*x, *c, *y * *s);
                *b += fma::<FMA>(*y, *c, -(*x * *s));
            }
        }
    }
}

/// Cosine and sine rows for each position.
struct Tables<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    half: usize,
    positions: &'a [u32],
}

impl<'a> Tables<'a> {
    fn new(rotation: Rotation<'a, Cpu>) -> Result<Self, OpError> {
        Ok(Self {
            cos: slice::matrix("rope", rotation.cos)?,
            sin: slice::matrix("rope", rotation.sin)?,
            half: rotation.cos.shape().1,
            positions: rotation.positions,
        })
    }

    fn row(&self, row: usize) -> (&'a [f32], &'a [f32]) {
        let first = self.positions[row] as usize * self.half;
        (&self.cos[first..first + self.half], &self.sin[first..first + self.half])
    }
}

fn rotate_rows(data: &mut [f32], width: usize, tables: &Tables) {
    threads::for_rows(data, width, |first, piece| {
        for (i, row) in piece.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = tables.row(first + i);
            rotate(row, cos, sin);
        }
    });
}

impl RopeKernel for Cpu {
    type Positions = Vec<u32>;

    fn rope_positions(&self, positions: &[u32]) -> Result<Vec<u32>, OpError> {
        Ok(positions.to_vec())
    }

    fn rope_forward(&self, x: &Act<Self>, rotation: Rotation<Self>) -> Result<Act<Self>, OpError> {
        let tables = Tables::new(rotation)?;
        let source = slice::matrix("rope", x)?;
        let width = x.shape().1;
        // SAFETY: pieces hold whole rows; each is copied over (and so initialised) before it is rotated.
        let out = unsafe {
            build::rows(x.shape().0, width, |first, piece| {
                for (i, row) in piece.chunks_exact_mut(width).enumerate() {
                    let from = (first + i) * width;
                    let row = row.write_copy_of_slice(&source[from..from + width]);
                    let (cos, sin) = tables.row(first + i);
                    rotate(row, cos, sin);
                }
            })
        };
        self.try_tensor_from_vec(out, *x.shape()).map_err(OpError::device)
    }

    fn rope_reusing(&self, mut x: Act<Self>, rotation: Rotation<Self>) -> Result<Act<Self>, OpError> {
        if slice::unshare("rope", &mut x)? {
            return self.rope_forward(&x, rotation);
        }
        let (tables, width) = (Tables::new(rotation)?, x.shape().1);
        rotate_rows(slice::matrix_mut("rope", &mut x)?, width, &tables);
        Ok(x)
    }

    fn rope_backward(
        &self,
        d: &Buffer<Self>,
        rotation: Rotation<Self>,
        d_x: &mut Buffer<Self>,
        _: bool,
    ) -> Result<(), OpError> {
        let tables = Tables::new(rotation)?;
        expect_len("rope", d.len(), d_x.len())?;
        if tables.positions.is_empty() {
            return Ok(());
        }
        let width = d.len() / tables.positions.len();
        threads::for_rows(d_x, width, |first, piece| {
            for (i, d_x) in piece.chunks_exact_mut(width).enumerate() {
                let from = (first + i) * width;
                let (cos, sin) = tables.row(first + i);
                rotate_back(d_x, &d[from..from + width], cos, sin);
            }
        });
        Ok(())
    }
}
