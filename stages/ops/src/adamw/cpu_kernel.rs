//! AdamW on the CPU: a parameter after the other, in one pass over it, its gradient and its moments, on all threads
//! when large.

use dfdx::prelude::Cpu;
use rayon::prelude::*;

use super::{AdamwFactors, AdamwHyper, AdamwKernel, AdamwPart, Moments};
use crate::OpError;
use crate::cpu::memory::expect_len;
use crate::cpu::simd::{fma, simd_fn};
use crate::cpu::{slice, threads};
use crate::param::{Gradient, ParamRef};
use crate::tape::Grads;

const OP: &str = "adamw";

/// Elements a thread takes at a time.
const PIECE: usize = 16 * 1024;

simd_fn! {
    fn piece(p: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32], f: AdamwFactors) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = std::mem::take(g) * f.grad_scale;
            *m = fma::<FMA>(f.fresh1, g - *m, *m);
            *v = fma::<FMA>(f.fresh2 * g, g, *v * f.beta2);
            let denominator = v.sqrt() / f.correction2 + f.eps;
            *p = *p * f.keep - f.step_size * (*m / denominator);
        }
    }
}

fn update(
    p: &mut [f32],
    g: &mut [f32],
    (m, v): (&mut [f32], &mut [f32]),
    factors: AdamwFactors,
) -> Result<(), OpError> {
    expect_len(OP, g.len(), p.len())?;
    expect_len(OP, m.len(), p.len())?;
    expect_len(OP, v.len(), p.len())?;
    if p.len() < threads::LIGHT || threads::count() == 1 {
        piece(p, g, m, v, factors);
    } else {
        let params = p.par_chunks_mut(PIECE).zip(g.par_chunks_mut(PIECE));
        let moments = m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE));
        params.zip(moments).for_each(|((p, g), (m, v))| piece(p, g, m, v, factors));
    }
    Ok(())
}

impl AdamwKernel for Cpu {
    fn adamw(
        &self,
        parts: &mut [AdamwPart<'_, Self>],
        grads: &mut Grads<Self>,
        hyper: &AdamwHyper,
    ) -> Result<(), OpError> {
        for AdamwPart { param, state, decays } in parts {
            let (Gradient::Elems(grad) | Gradient::Floats(grad)) = param.gradient(grads)?;
            // f32 whichever they are, as weights themselves: no master.
            let moments = match &mut state.moments {
                Moments::F32 { m, v } => (slice::vector_mut(OP, m)?, slice::vector_mut(OP, v)?),
                Moments::Short { m, v } => (slice::matrix_mut(OP, m)?, slice::matrix_mut(OP, v)?),
            };
            let param = match param {
                ParamRef::Weight(p) | ParamRef::Matrix(p) => slice::matrix_mut(OP, p)?,
                ParamRef::Vector(p) => slice::vector_mut(OP, p)?,
            };
            update(param, grad, moments, hyper.factors(*decays))?;
        }
        Ok(())
    }
}
