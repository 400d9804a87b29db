//! Norms on CUDA: partial sums of all tensors in one launch, each tensor's in a second, and one transfer to the host.
//!
//! Unaware of names and of what the norm is for.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;

use super::GradNormKernel;
use crate::OpError;
use crate::add::flat;
use crate::backend::{Buffer, ParamBuffer};
use crate::cuda::{Arg, Grid, Table, download, launch, scratch, slice_addr};
use crate::param::{Gradient, ParamRef};
use crate::tape::Grads;

/// Most partial sums of one tensor, and elements of each in a tensor with fewer. Both fix the order of summation.
const MOST: usize = 1024;
const PIECE: usize = 16 * 1024;

fn scale(dev: &Cuda, name: &'static str, x: u64, len: usize, factor: f32) -> Result<(), OpError> {
    if len == 0 {
        return Ok(());
    }
    let args = [
        Arg::Ptr(x),          // __nv_bfloat16* or float* x
        Arg::F32(factor),     // float factor
        Arg::U64(len as u64), // unsigned long long len
    ];
    // SAFETY: the caller passes a buffer's address and length.
    unsafe { launch(dev, name, flat(len), &args) }
}

impl GradNormKernel for Cuda {
    fn square_sum(&self, grads: &mut Grads<Self>, params: &[ParamRef<Self>]) -> Result<f64, OpError> {
        // `Entry` of grad_norm.cu: address, elements, whether they are bf16.
        let mut table = Table::<3>::default();
        for param in params {
            let (x, len, is_bf16) = match param.gradient(grads)? {
                Gradient::Elems(d) => (slice_addr(d), d.len(), true),
                Gradient::Floats(d) => (slice_addr(d), d.len(), false),
            };
            table.push([x, len as u64, u64::from(is_bf16)], len.div_ceil(PIECE).clamp(1, MOST));
        }
        if table.is_empty() {
            return Ok(0.0);
        }
        let group = table.upload("grad_norm", self)?;
        let partials = scratch::<f64>(self, table.blocks())?;
        let [words, count] = group.args();
        let args = [
            Arg::Ptr(slice_addr(&partials)), // double* partials
            words,                           // const unsigned long long* table
            count,                           // unsigned count
        ];
        // SAFETY: the table has the addresses and lengths of live gradients (an empty one is not read); there is room
        // for a sum of each block.
        unsafe { launch(self, "anneal_grad_norm_partial", group.grid(256), &args)? };
        let sums = scratch::<f64>(self, table.len())?;
        let args = [
            Arg::Ptr(slice_addr(&sums)),     // double* sums
            Arg::Ptr(slice_addr(&partials)), // const double* partials
            words,                           // const unsigned long long* starts
        ];
        let grid = Grid { blocks: (table.len() as u32, 1, 1), threads: 128, shared_bytes: 0 };
        // SAFETY: the table begins with the starts of `partials`' sums, one more than there are tensors; each sum was
        // written by the launch above.
        unsafe { launch(self, "anneal_grad_norm_finish", grid, &args)? };
        Ok(download(self, &sums)?.iter().sum())
    }

    fn scale_buffer(&self, buffer: &mut Buffer<Self>, factor: f32) -> Result<(), OpError> {
        scale(self, "anneal_grad_norm_scale_bf16", slice_addr(buffer), buffer.len(), factor)
    }

    fn scale_params(&self, buffer: &mut ParamBuffer<Self>, factor: f32) -> Result<(), OpError> {
        scale(self, "anneal_grad_norm_scale_f32", slice_addr(buffer), buffer.len(), factor)
    }
}
