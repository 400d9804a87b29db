//! Norms on the CPU: f64 partial sums of fixed pieces, added in order.

use dfdx::prelude::Cpu;
use rayon::prelude::*;

use super::GradNormKernel;
use crate::OpError;
use crate::backend::{Buffer, ParamBuffer};
use crate::cpu::simd::{self, LANES, simd_fn};
use crate::cpu::threads;
use crate::param::{Gradient, ParamRef};
use crate::tape::Grads;

/// Elements a partial sum.
const PIECE: usize = 32 * 1024;

simd_fn! {
    fn squares(x: &[f32]) -> f64 {
        let mut sums = [0.0f64; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for lane in 0..LANES {
                let x = f64::from(chunk[lane]);
                sums[lane] += x * x;
            }
        }
        for (lane, x) in rest.iter().enumerate() {
            sums[lane] += f64::from(*x) * f64::from(*x);
        }
        sums.iter().sum()
    }
}

fn square_sum(x: &[f32]) -> f64 {
    if x.len() < threads::LIGHT || threads::count() == 1 {
        return x.chunks(PIECE).map(squares).sum();
    }
    let sums: Vec<f64> = x.par_chunks(PIECE).map(squares).collect();
    sums.iter().sum()
}

impl GradNormKernel for Cpu {
    fn square_sum(&self, grads: &mut Grads<Self>, params: &[ParamRef<Self>]) -> Result<f64, OpError> {
        params.iter().try_fold(0.0, |sum, param| {
            let (Gradient::Elems(d) | Gradient::Floats(d)) = param.gradient(grads)?;
            Ok(sum + square_sum(d))
        })
    }

    fn scale_buffer(&self, buffer: &mut Buffer<Self>, factor: f32) -> Result<(), OpError> {
        threads::for_rows(buffer, 1, |_, piece| simd::scale(piece, factor));
        Ok(())
    }

    fn scale_params(&self, buffer: &mut ParamBuffer<Self>, factor: f32) -> Result<(), OpError> {
        self.scale_buffer(buffer, factor)
    }
}
