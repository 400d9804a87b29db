//! SwiGLU on CUDA: one launch forward, one backward. Unaware of where in a model it stands.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::SwigluKernel;
use crate::OpError;
use crate::add::flat;
use crate::backend::{Act, Buffer};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, addr, launch, new_act, slice_addr};

impl SwigluKernel for Cuda {
    fn swiglu_forward(&self, gate: &Act<Self>, up: &Act<Self>) -> Result<Act<Self>, OpError> {
        let &(rows, width) = gate.shape();
        let out = new_act(self, rows, width)?;
        if rows * width > 0 {
            let args = [
                Arg::Ptr(addr(&out)?),           // __nv_bfloat16* out
                Arg::Ptr(addr(gate)?),           // const __nv_bfloat16* gate
                Arg::Ptr(addr(up)?),             // const __nv_bfloat16* up
                Arg::U64((rows * width) as u64), // unsigned long long len
            ];
            // SAFETY: `swiglu` checked that gate and up have the same shape, which `out` was made with.
            unsafe { launch(self, "anneal_swiglu_forward", flat(rows * width), &args)? };
        }
        Ok(out)
    }

    fn swiglu_backward(
        &self,
        gate: &Act<Self>,
        up: &Act<Self>,
        d: &mut Buffer<Self>,
        d_up: &mut Buffer<Self>,
        unwritten: bool,
    ) -> Result<(), OpError> {
        let len = gate.shape().0 * gate.shape().1;
        expect_len("swiglu", d.len(), len)?;
        expect_len("swiglu", d_up.len(), len)?;
        if len == 0 {
            return Ok(());
        }
        let args = [
            Arg::Ptr(slice_addr(d)),    // __nv_bfloat16* d
            Arg::Ptr(slice_addr(d_up)), // __nv_bfloat16* d_up
            Arg::Ptr(addr(gate)?),      // const __nv_bfloat16* gate
            Arg::Ptr(addr(up)?),        // const __nv_bfloat16* up
            Arg::U64(len as u64),       // unsigned long long len
            Arg::U32(unwritten.into()), // unsigned unwritten
        ];
        // SAFETY: all four have `len` elements; d and d_up are distinct allocations, as both are borrowed mutably.
        unsafe { launch(self, "anneal_swiglu_backward", flat(len), &args) }
    }
}
