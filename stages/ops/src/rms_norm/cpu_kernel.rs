//! RMS norm on the CPU: one pass for the statistics and one for the output, rows on all threads when large.

use std::mem::MaybeUninit;

use dfdx::prelude::{Cpu, TensorFromVec};
use dfdx::shapes::HasShape;

use super::RmsNormKernel;
use crate::OpError;
use crate::backend::{Act, Buffer, ParamBuffer, Vector};
use crate::cpu::memory::expect_len;
use crate::cpu::simd::{LANES, dot_body, fma, simd_fn};
use crate::cpu::{build, slice, threads};

simd_fn! {
    /// `r` of each row.
    fn statistics(x: &[f32], width: usize, eps: f32, r: &mut [f32]) {
        for (x, r) in x.chunks_exact(width).zip(r) {
            *r = 1.0 / (dot_body::<L>(x, x) / width as f32 + eps).sqrt();
        }
    }
}

simd_fn! {
    fn forward(out: &mut [MaybeUninit<f32>], x: &[f32], weight: &[f32], r: &[f32]) {
        let width = weight.len();
        for ((out, x), r) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(r) {
            for ((o, x), w) in out.iter_mut().zip(x).zip(weight) {
                o.write(*w * (*x * *r));
            }
        }
    }
}

simd_fn! {
    /// `sum(d * weight * x)` over fixed lanes.
    fn triple_dot(d: &[f32], weight: &[f32], x: &[f32]) -> f32 {
        let mut sum = L::splat(0.0);
        let (dc, wc, xc) = (d.chunks_exact(LANES), weight.chunks_exact(LANES), x.chunks_exact(LANES));
        let (dr, wr, xr) = (dc.remainder(), wc.remainder(), xc.remainder());
        for ((d, w), x) in dc.zip(wc).zip(xc) {
            sum = L::load(d).mul(L::load(w)).fma(L::load(x), sum);
        }
        if !dr.is_empty() {
            let product = L::load_part(dr, 0.0).mul(L::load_part(wr, 0.0));
            sum = product.fma(L::load_part(xr, 0.0), sum);
        }
        sum.sum()
    }
}

simd_fn! {
    fn backward_row(d_x: &mut [f32], d: &[f32], weight: &[f32], x: &[f32], r: f32, shift: f32) {
        for (((d_x, d), w), x) in d_x.iter_mut().zip(d).zip(weight).zip(x) {
            *d_x += r * fma::<FMA>(-*x, shift, *d * *w);
        }
    }
}

simd_fn! {
    fn weight_row(d_weight: &mut [f32], d: &[f32], x: &[f32], r: f32) {
        for ((w, d), x) in d_weight.iter_mut().zip(d).zip(x) {
            *w = fma::<FMA>(*d, *x * r, *w);
        }
    }
}

impl RmsNormKernel for Cpu {
    fn rms_norm_forward(
        &self,
        x: &Act<Self>,
        weight: &Vector<Self>,
        eps: f32,
    ) -> Result<(Act<Self>, Vector<Self>), OpError> {
        let &(rows, width) = x.shape();
        let (xs, w) = (slice::matrix("rms_norm", x)?, slice::vector("rms_norm", weight)?);
        let mut r = vec![0.0; rows];
        if width > 0 {
            if xs.len() < threads::LIGHT {
                statistics(xs, width, eps, &mut r);
            } else {
                let each = rows.div_ceil(threads::count()).max(1);
                use rayon::prelude::*;
                r.par_chunks_mut(each).zip(xs.par_chunks(each * width)).for_each(|(r, x)| statistics(x, width, eps, r));
            }
        }
        // SAFETY: pieces hold whole rows, and `forward` writes each of them.
        let out = unsafe {
            build::rows(rows, width, |first, piece| {
                let count = piece.len() / width;
                forward(piece, &xs[first * width..(first + count) * width], w, &r[first..first + count]);
            })
        };
        let out = self.try_tensor_from_vec(out, (rows, width)).map_err(OpError::device)?;
        Ok((out, self.try_tensor_from_vec(r, (rows,)).map_err(OpError::device)?))
    }

    fn rms_norm_backward(
        &self,
        x: &Act<Self>,
        weight: &Vector<Self>,
        r: &Vector<Self>,
        d: &Buffer<Self>,
        d_x: &mut Buffer<Self>,
    ) -> Result<(), OpError> {
        let width = x.shape().1;
        let (x, w) = (slice::matrix("rms_norm", x)?, slice::vector("rms_norm", weight)?);
        let r = slice::vector("rms_norm", r)?;
        expect_len("rms_norm", d.len(), x.len())?;
        expect_len("rms_norm", d_x.len(), x.len())?;
        threads::for_rows(d_x, width, |first, piece| {
            for (i, d_x) in piece.chunks_exact_mut(width).enumerate() {
                let row = first + i;
                let range = row * width..(row + 1) * width;
                let (x, d, r) = (&x[range.clone()], &d[range], r[row]);
                let shift = triple_dot(d, w, x) / width as f32 * r * r;
                backward_row(d_x, d, w, x, r, shift);
            }
        });
        Ok(())
    }

    fn rms_norm_backward_weight(
        &self,
        x: &Act<Self>,
        r: &Vector<Self>,
        d: &Buffer<Self>,
        d_weight: &mut ParamBuffer<Self>,
    ) -> Result<(), OpError> {
        let width = x.shape().1;
        let (x, r) = (slice::matrix("rms_norm", x)?, slice::vector("rms_norm", r)?);
        expect_len("rms_norm", d.len(), x.len())?;
        expect_len("rms_norm", d_weight.len(), width)?;
        if width > 0 {
            for ((x, d), r) in x.chunks_exact(width).zip(d.chunks_exact(width)).zip(r) {
                weight_row(d_weight, d, x, *r);
            }
        }
        Ok(())
    }
}
