//! Addition on CUDA, and what every kernel over flat arrays needs: its grid. Unaware of where in a model it stands.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::AddKernel;
use crate::OpError;
use crate::backend::{Act, Buffer};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Grid, addr, launch, new_act, slice_addr};

/// Elements of one 16-byte access.
pub(crate) const VECTOR: usize = 8;

/// One thread for each vector of a flat array: measured on an H100, this keeps up with a plain copy, and a grid of
/// fixed size that loops does not quite.
pub(crate) fn flat(len: usize) -> Grid {
    const THREADS: usize = 256;
    let blocks = len.div_ceil(VECTOR * THREADS).clamp(1, i32::MAX as usize) as u32;
    Grid { blocks: (blocks, 1, 1), threads: THREADS as u32, shared_bytes: 0 }
}

/// A size as a kernel's 32-bit argument. Sizes that reach here are widths; a longer one is no model's.
pub(crate) fn narrow(op: &'static str, what: &str, size: usize) -> Result<u32, OpError> {
    match u32::try_from(size) {
        Ok(size) if size < i32::MAX as u32 => Ok(size),
        _ => Err(OpError::argument(op, format!("{what} {size} is more than the CUDA kernels take (2^31 - 2)"))),
    }
}

impl AddKernel for Cuda {
    fn add_new(&self, x: &Act<Self>, y: &Act<Self>) -> Result<Act<Self>, OpError> {
        let &(rows, width) = x.shape();
        let out = new_act(self, rows, width)?;
        if rows * width > 0 {
            let args = [
                Arg::Ptr(addr(&out)?),           // __nv_bfloat16* out
                Arg::Ptr(addr(x)?),              // const __nv_bfloat16* x
                Arg::Ptr(addr(y)?),              // const __nv_bfloat16* y
                Arg::U64((rows * width) as u64), // unsigned long long len
            ];
            // SAFETY: `add` checked that x and y have the same shape, which `out` was made with.
            unsafe { launch(self, "anneal_add", flat(rows * width), &args)? };
        }
        Ok(out)
    }

    /// Always a new tensor: from outside dfdx a device tensor does not show whether its storage is shared.
    fn add_reusing(&self, x: Act<Self>, y: &Act<Self>) -> Result<Act<Self>, OpError> {
        self.add_new(&x, y)
    }

    fn accumulate(&self, slot: &mut Buffer<Self>, d: &Buffer<Self>) -> Result<(), OpError> {
        expect_len("accumulate", d.len(), slot.len())?;
        if d.len() == 0 {
            return Ok(());
        }
        let args = [
            Arg::Ptr(slice_addr(slot)), // __nv_bfloat16* slot
            Arg::Ptr(slice_addr(d)),    // const __nv_bfloat16* d
            Arg::U64(d.len() as u64),   // unsigned long long len
        ];
        // SAFETY: both buffers have the length passed.
        unsafe { launch(self, "anneal_add_accumulate", flat(d.len()), &args) }
    }
}
