//! Norms on CUDA: partial sums of every tensor into one array, and one transfer to the host at the end.
//!
//! Unaware of names and of what the norm is for.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;

use super::GradNormKernel;
use crate::OpError;
use crate::add::flat;
use crate::backend::{Buffer, ParamBuffer};
use crate::cuda::{Arg, Grid, Slice, download, launch, scratch, slice_addr, upload};

/// Most partial sums of one tensor, and elements of each in a tensor with fewer. Both fix the order of summation.
const MOST: usize = 1024;
const PIECE: usize = 16 * 1024;

/// Sums under way.
pub struct SquareSums {
    partials: Slice<f64>,
    /// Where each tensor's partial sums begin, and where the next one's will.
    starts: Vec<u32>,
    room: usize,
}

fn partial(dev: &Cuda, sums: &mut SquareSums, name: &'static str, x: u64, len: usize) -> Result<(), OpError> {
    let first = sums.starts.last().copied().unwrap_or(0);
    let parts = len.div_ceil(PIECE).clamp(1, MOST) as u32;
    if (first + parts) as usize > sums.room {
        return Err(OpError::argument("grad_norm", "more tensors than were announced"));
    }
    let args = [
        Arg::Ptr(slice_addr(&sums.partials) + 8 * u64::from(first)), // double* partials
        Arg::Ptr(x),                                                 // const __nv_bfloat16* or const float* x
        Arg::U64(len as u64),                                        // unsigned long long len
    ];
    // SAFETY: the caller passes a buffer's address and length; room for `parts` sums was checked. An empty array is not
    // read.
    unsafe { launch(dev, name, Grid { blocks: (parts, 1, 1), threads: 256, shared_bytes: 0 }, &args)? };
    sums.starts.push(first + parts);
    Ok(())
}

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
    type SquareSums = SquareSums;

    fn square_sums(&self, tensors: usize) -> Result<SquareSums, OpError> {
        let room = tensors.max(1) * MOST;
        if u32::try_from(room).is_err() {
            return Err(OpError::argument("grad_norm", format!("{tensors} tensors are more than it takes")));
        }
        Ok(SquareSums { partials: scratch(self, room)?, starts: vec![0], room })
    }

    fn add_squares(&self, sums: &mut SquareSums, buffer: &Buffer<Self>) -> Result<(), OpError> {
        partial(self, sums, "anneal_grad_norm_partial_bf16", slice_addr(buffer), buffer.len())
    }

    fn add_squares_params(&self, sums: &mut SquareSums, buffer: &ParamBuffer<Self>) -> Result<(), OpError> {
        partial(self, sums, "anneal_grad_norm_partial_f32", slice_addr(buffer), buffer.len())
    }

    fn finish_squares(&self, sums: SquareSums) -> Result<f64, OpError> {
        let tensors = sums.starts.len() - 1;
        if tensors == 0 {
            return Ok(0.0);
        }
        let (starts, totals) = (upload(self, &sums.starts)?, scratch::<f64>(self, tensors)?);
        let args = [
            Arg::Ptr(slice_addr(&totals)),        // double* sums
            Arg::Ptr(slice_addr(&sums.partials)), // const double* partials
            Arg::Ptr(slice_addr(&starts)),        // const unsigned* starts
        ];
        let grid = Grid { blocks: (tensors as u32, 1, 1), threads: 128, shared_bytes: 0 };
        // SAFETY: `partial` kept starts within `partials`, and each sum between them was written by its launch.
        unsafe { launch(self, "anneal_grad_norm_finish", grid, &args)? };
        Ok(download(self, &totals)?.iter().sum())
    }

    fn scale_buffer(&self, buffer: &mut Buffer<Self>, factor: f32) -> Result<(), OpError> {
        scale(self, "anneal_grad_norm_scale_bf16", slice_addr(buffer), buffer.len(), factor)
    }

    fn scale_params(&self, buffer: &mut ParamBuffer<Self>, factor: f32) -> Result<(), OpError> {
        scale(self, "anneal_grad_norm_scale_f32", slice_addr(buffer), buffer.len(), factor)
    }
}
