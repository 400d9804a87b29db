//! RMS norm on CUDA: a block a row; the weight's gradient in two stages. Unaware of where in a model it stands.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::RmsNormKernel;
use crate::OpError;
use crate::add::{VECTOR, narrow};
use crate::backend::{Act, Buffer, ParamBuffer, Vector};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Grid, addr, launch, launch_early, new_act, new_vector, scratch, slice_addr};

const OP: &str = "rms_norm";

/// Forward kernel, backward kernel and threads of a block: a thread holds 1, 2 or 4 vectors of its row, so that a block
/// has at most 512 threads; other rows are walked over.
fn plan(width: usize) -> (&'static str, &'static str, u32) {
    let vectors = width / VECTOR;
    let threads = |each: usize| vectors.div_ceil(each).next_multiple_of(32) as u32;
    match vectors {
        _ if !width.is_multiple_of(VECTOR) => ("anneal_rms_norm_forward_any", "anneal_rms_norm_backward_any", 256),
        0..=256 => ("anneal_rms_norm_forward_1", "anneal_rms_norm_backward_1", threads(1)),
        257..=1024 => ("anneal_rms_norm_forward_2", "anneal_rms_norm_backward_2", threads(2)),
        1025..=2048 => ("anneal_rms_norm_forward_4", "anneal_rms_norm_backward_4", threads(4)),
        _ => ("anneal_rms_norm_forward_any", "anneal_rms_norm_backward_any", 256),
    }
}

fn rows_grid(rows: usize, threads: u32) -> Grid {
    Grid { blocks: (rows.min(i32::MAX as usize) as u32, 1, 1), threads, shared_bytes: 0 }
}

/// Rows that are summed together in the first stage of the weight's gradient: at most 128 groups, none very small.
/// Depends on the number of rows only, so the sums have one order on every card.
fn rows_a_group(rows: usize) -> usize {
    rows.div_ceil(128).max(32)
}

/// `out` and the statistic `r` of rows of x, between addresses; by [`launch_early`] if `early`.
///
/// # Safety
/// They are those of live allocations: out and x `rows * width` elements, r `rows` f32, the weight `width` f32.
pub(crate) unsafe fn normalize(
    dev: &Cuda,
    (out, r, x, weight): (u64, u64, u64, u64),
    (rows, width, eps): (usize, usize, f32),
    early: bool,
) -> Result<(), OpError> {
    let (name, _, threads) = plan(width);
    let args = [
        Arg::Ptr(out),                         // __nv_bfloat16* out
        Arg::Ptr(r),                           // float* r
        Arg::Ptr(x),                           // const __nv_bfloat16* x
        Arg::Ptr(weight),                      // const float* weight
        Arg::U64(rows as u64),                 // unsigned long long rows
        Arg::U32(narrow(OP, "width", width)?), // unsigned width
        Arg::F32(eps),                         // float eps
    ];
    let grid = rows_grid(rows, threads);
    // SAFETY: the caller's promise is the kernel's, which waits before it reads anything.
    unsafe { if early { launch_early(dev, name, grid, &args) } else { launch(dev, name, grid, &args) } }
}

impl RmsNormKernel for Cuda {
    fn rms_norm_forward(
        &self,
        x: &Act<Self>,
        weight: &Vector<Self>,
        eps: f32,
    ) -> Result<(Act<Self>, Vector<Self>), OpError> {
        let &(rows, width) = x.shape();
        let (out, r) = (new_act(self, rows, width)?, new_vector(self, rows)?);
        if rows * width > 0 {
            let addresses = (addr(&out)?, addr(&r)?, addr(x)?, addr(weight)?);
            // SAFETY: `rms_norm` checked that the weight has `width` elements; out and r were made for x.
            unsafe { normalize(self, addresses, (rows, width, eps), false)? };
        }
        Ok((out, r))
    }

    fn rms_norm_backward(
        &self,
        x: &Act<Self>,
        weight: &Vector<Self>,
        r: &Vector<Self>,
        d: &Buffer<Self>,
        d_x: &mut Buffer<Self>,
    ) -> Result<(), OpError> {
        let &(rows, width) = x.shape();
        expect_len(OP, d.len(), rows * width)?;
        expect_len(OP, d_x.len(), rows * width)?;
        if rows * width == 0 {
            return Ok(());
        }
        let (_, name, threads) = plan(width);
        let args = [
            Arg::Ptr(slice_addr(d_x)),             // __nv_bfloat16* d_x
            Arg::Ptr(slice_addr(d)),               // const __nv_bfloat16* d
            Arg::Ptr(addr(x)?),                    // const __nv_bfloat16* x
            Arg::Ptr(addr(weight)?),               // const float* weight
            Arg::Ptr(addr(r)?),                    // const float* r
            Arg::U64(rows as u64),                 // unsigned long long rows
            Arg::U32(narrow(OP, "width", width)?), // unsigned width
        ];
        // SAFETY: lengths of d and d_x were checked; weight and r are those of the forward of x.
        unsafe { launch(self, name, rows_grid(rows, threads), &args) }
    }

    fn rms_norm_backward_weight(
        &self,
        x: &Act<Self>,
        r: &Vector<Self>,
        d: &Buffer<Self>,
        d_weight: &mut ParamBuffer<Self>,
    ) -> Result<(), OpError> {
        let &(rows, width) = x.shape();
        expect_len(OP, d.len(), rows * width)?;
        expect_len(OP, d_weight.len(), width)?;
        if rows * width == 0 {
            return Ok(());
        }
        let each = rows_a_group(rows);
        let groups = rows.div_ceil(each);
        let partial = scratch::<f32>(self, groups * width)?;
        let vectors = width.is_multiple_of(VECTOR);
        let name = if vectors { "anneal_rms_norm_weight_partial" } else { "anneal_rms_norm_weight_partial_any" };
        let columns = |unit: usize| width.div_ceil(unit * 128) as u32;
        let width = narrow(OP, "width", width)?;
        let args = [
            Arg::Ptr(slice_addr(&partial)),              // float* partial
            Arg::Ptr(slice_addr(d)),                     // const __nv_bfloat16* d
            Arg::Ptr(addr(x)?),                          // const __nv_bfloat16* x
            Arg::Ptr(addr(r)?),                          // const float* r
            Arg::U64(rows as u64),                       // unsigned long long rows
            Arg::U32(width),                             // unsigned width
            Arg::U32(narrow(OP, "rows a group", each)?), // unsigned rows_a_group
        ];
        let blocks = (columns(if vectors { VECTOR } else { 1 }), groups as u32, 1);
        // SAFETY: `partial` holds `groups * width` numbers and the kernel writes all; the rest as in the backward of x.
        unsafe { launch(self, name, Grid { blocks, threads: 128, shared_bytes: 0 }, &args)? };
        let args = [
            Arg::Ptr(slice_addr(d_weight)), // float* d_weight
            Arg::Ptr(slice_addr(&partial)), // const float* partial
            Arg::U32(groups as u32),        // unsigned groups
            Arg::U32(width),                // unsigned width
        ];
        let grid = Grid { blocks: (columns(1), 1, 1), threads: 128, shared_bytes: 0 };
        // SAFETY: as above; d_weight has `width` elements.
        unsafe { launch(self, "anneal_rms_norm_weight_finish", grid, &args) }
    }
}
