//! Addition on the CPU: memory-bound loops, threaded when large.

use std::mem::MaybeUninit;

use dfdx::prelude::{Cpu, TensorFromVec};
use dfdx::shapes::HasShape;

use super::AddKernel;
use crate::OpError;
use crate::backend::{Act, Buffer};
use crate::cpu::memory::expect_len;
use crate::cpu::simd::{self, simd_fn};
use crate::cpu::{build, slice, threads};

simd_fn! {
    fn sum(out: &mut [MaybeUninit<f32>], x: &[f32], y: &[f32]) {
        for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
            o.write(*x + *y);
        }
    }
}

/// `y += x` on all threads if large.
pub(crate) fn add_assign(y: &mut [f32], x: &[f32]) {
    threads::for_rows(y, 1, |first, piece| {
        let len = piece.len();
        simd::add_assign(piece, &x[first..first + len]);
    });
}

impl AddKernel for Cpu {
    fn add_new(&self, x: &Act<Self>, y: &Act<Self>) -> Result<Act<Self>, OpError> {
        let (a, b) = (slice::matrix("add", x)?, slice::matrix("add", y)?);
        // SAFETY: `sum` writes every element of the piece, as `a` and `b` have the length of the whole.
        let out = unsafe {
            build::rows(a.len(), 1, |first, piece| {
                let range = first..first + piece.len();
                sum(piece, &a[range.clone()], &b[range]);
            })
        };
        self.try_tensor_from_vec(out, *x.shape()).map_err(OpError::device)
    }

    fn add_reusing(&self, mut x: Act<Self>, y: &Act<Self>) -> Result<Act<Self>, OpError> {
        if slice::unshare("add", &mut x)? {
            return self.add_new(&x, y);
        }
        add_assign(slice::matrix_mut("add", &mut x)?, slice::matrix("add", y)?);
        Ok(x)
    }

    fn accumulate(&self, slot: &mut Buffer<Self>, d: &Buffer<Self>) -> Result<(), OpError> {
        expect_len("accumulate", d.len(), slot.len())?;
        add_assign(slot, d);
        Ok(())
    }
}
