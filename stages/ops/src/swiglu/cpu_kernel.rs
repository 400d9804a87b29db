//! SwiGLU on the CPU: one pass forward, one backward, threaded when large.

use std::mem::MaybeUninit;

use dfdx::prelude::{Cpu, TensorFromVec};
use dfdx::shapes::HasShape;
use rayon::prelude::*;

use super::SwigluKernel;
use crate::OpError;
use crate::backend::{Act, Buffer};
use crate::cpu::memory::expect_len;
use crate::cpu::simd::{exp, fma, simd_fn};
use crate::cpu::{build, slice, threads};

simd_fn! {
    fn forward(out: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
        for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
            o.write(*g / (1.0 + exp::<FMA>(-*g)) * *u);
        }
    }
}

simd_fn! {
    fn backward(gate: &[f32], up: &[f32], d: &mut [f32], d_up: &mut [f32]) {
        for (((g, u), d), d_up) in gate.iter().zip(up).zip(d).zip(d_up) {
            let s = 1.0 / (1.0 + exp::<FMA>(-*g));
            let silu = *g * s;
            *d_up = fma::<FMA>(*d, silu, *d_up);
            // s (1 + g (1 - s)), with g s taken once
            *d = *d * *u * (s + silu * (1.0 - s));
        }
    }
}

impl SwigluKernel for Cpu {
    fn swiglu_forward(&self, gate: &Act<Self>, up: &Act<Self>) -> Result<Act<Self>, OpError> {
        let (g, u) = (slice::matrix("swiglu", gate)?, slice::matrix("swiglu", up)?);
        // SAFETY: `forward` writes every element of the piece, as `g` and `u` have the length of the whole.
        let out = unsafe {
            build::rows(g.len(), 1, |first, piece| {
                let range = first..first + piece.len();
                forward(piece, &g[range.clone()], &u[range]);
            })
        };
        self.try_tensor_from_vec(out, *gate.shape()).map_err(OpError::device)
    }

    fn swiglu_backward(
        &self,
        gate: &Act<Self>,
        up: &Act<Self>,
        d: &mut Buffer<Self>,
        d_up: &mut Buffer<Self>,
        _: bool,
    ) -> Result<(), OpError> {
        let (g, u) = (slice::matrix("swiglu", gate)?, slice::matrix("swiglu", up)?);
        expect_len("swiglu", d.len(), g.len())?;
        expect_len("swiglu", d_up.len(), g.len())?;
        if g.len() < threads::LIGHT || threads::count() == 1 {
            backward(g, u, d, d_up);
            return Ok(());
        }
        let each = g.len().div_ceil(threads::count());
        let parts = d.par_chunks_mut(each).zip(d_up.par_chunks_mut(each));
        parts.zip(g.par_chunks(each)).zip(u.par_chunks(each)).for_each(|(((d, d_up), g), u)| backward(g, u, d, d_up));
        Ok(())
    }
}
