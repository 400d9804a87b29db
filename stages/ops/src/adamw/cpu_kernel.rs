//! AdamW on the CPU: one pass over parameter, gradient and moments, on all threads when large.

use dfdx::prelude::Cpu;
use rayon::prelude::*;

use super::{AdamwFactors, AdamwKernel, AdamwState, Moments};
use crate::OpError;
use crate::backend::{Buffer, Matrix, ParamBuffer, Vector, Weight};
use crate::cpu::memory::expect_len;
use crate::cpu::simd::{fma, simd_fn};
use crate::cpu::{slice, threads};

const OP: &str = "adamw";

/// Elements a thread takes at a time.
const PIECE: usize = 16 * 1024;

simd_fn! {
    fn piece(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], f: AdamwFactors) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = *g * f.grad_scale;
            *m = fma::<FMA>(f.fresh1, g - *m, *m);
            *v = fma::<FMA>(f.fresh2 * g, g, *v * f.beta2);
            let denominator = v.sqrt() / f.correction2 + f.eps;
            *p = *p * f.keep - f.step_size * (*m / denominator);
        }
    }
}

fn update(p: &mut [f32], g: &[f32], (m, v): (&mut [f32], &mut [f32]), factors: AdamwFactors) -> Result<(), OpError> {
    expect_len(OP, g.len(), p.len())?;
    expect_len(OP, m.len(), p.len())?;
    expect_len(OP, v.len(), p.len())?;
    if p.len() < threads::LIGHT || threads::count() == 1 {
        piece(p, g, m, v, factors);
    } else {
        let params = p.par_chunks_mut(PIECE).zip(g.par_chunks(PIECE));
        let moments = m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE));
        params.zip(moments).for_each(|((p, g), (m, v))| piece(p, g, m, v, factors));
    }
    Ok(())
}

impl AdamwKernel for Cpu {
    fn adamw_weight(
        &self,
        param: &mut Weight<Self>,
        grad: &Buffer<Self>,
        state: &mut AdamwState<Self>,
        factors: AdamwFactors,
    ) -> Result<(), OpError> {
        // f32 whichever they are, as the weight itself: no master.
        let moments = match &mut state.moments {
            Moments::F32 { m, v } => (slice::vector_mut(OP, m)?, slice::vector_mut(OP, v)?),
            Moments::Short { m, v } => (slice::matrix_mut(OP, m)?, slice::matrix_mut(OP, v)?),
        };
        update(slice::matrix_mut(OP, param)?, grad, moments, factors)
    }

    fn adamw_matrix(
        &self,
        param: &mut Matrix<Self>,
        grad: &ParamBuffer<Self>,
        (m, v): (&mut Vector<Self>, &mut Vector<Self>),
        factors: AdamwFactors,
    ) -> Result<(), OpError> {
        let moments = (slice::vector_mut(OP, m)?, slice::vector_mut(OP, v)?);
        update(slice::matrix_mut(OP, param)?, grad, moments, factors)
    }

    fn adamw_vector(
        &self,
        param: &mut Vector<Self>,
        grad: &ParamBuffer<Self>,
        (m, v): (&mut Vector<Self>, &mut Vector<Self>),
        factors: AdamwFactors,
    ) -> Result<(), OpError> {
        let moments = (slice::vector_mut(OP, m)?, slice::vector_mut(OP, v)?);
        update(slice::vector_mut(OP, param)?, grad, moments, factors)
    }
}
