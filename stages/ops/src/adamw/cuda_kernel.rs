//! AdamW on CUDA: one launch a tensor, in place.
//!
//! A tensor that shares its storage with the parameter sees the update, unlike on the CPU, where it would be copied
//! first: from outside dfdx a device tensor does not show whether it is shared.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::{AdamwFactors, AdamwKernel, AdamwState, Moments};
use crate::OpError;
use crate::add::flat;
use crate::backend::{Buffer, Matrix, ParamBuffer, Vector, Weight};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, addr, launch, new_vector, slice_addr};

const OP: &str = "adamw";

/// Launches `name` with these arrays, all of `len` elements, and the factors.
///
/// # Safety
/// `arrays` are the kernel's, each with `len` elements.
unsafe fn update(
    dev: &Cuda,
    name: &'static str,
    arrays: &[u64],
    len: usize,
    factors: AdamwFactors,
) -> Result<(), OpError> {
    if len == 0 {
        return Ok(());
    }
    let AdamwFactors { keep, fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale } = factors;
    let mut args: Vec<Arg> = arrays.iter().map(|array| Arg::Ptr(*array)).collect();
    args.push(Arg::U64(len as u64)); // unsigned long long len
    // float keep, fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale
    args.extend([keep, fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale].map(Arg::F32));
    // SAFETY: the caller's.
    unsafe { launch(dev, name, flat(len), &args) }
}

fn update_f32(
    dev: &Cuda,
    (param, len): (u64, usize),
    grad: &ParamBuffer<Cuda>,
    (m, v): (&mut Vector<Cuda>, &mut Vector<Cuda>),
    factors: AdamwFactors,
) -> Result<(), OpError> {
    expect_len(OP, grad.len(), len)?;
    expect_len(OP, m.shape().0, len)?;
    expect_len(OP, v.shape().0, len)?;
    // float* p, const float* g, float* m, float* v
    let arrays = [param, slice_addr(grad), addr(m)?, addr(v)?];
    // SAFETY: all four have `len` elements.
    unsafe { update(dev, "anneal_adamw_f32", &arrays, len, factors) }
}

/// The f32 master of a weight, made from it at the first step.
fn master(dev: &Cuda, weight: u64, len: usize) -> Result<Vector<Cuda>, OpError> {
    let master = new_vector(dev, len)?;
    if len > 0 {
        let args = [
            Arg::Ptr(addr(&master)?), // float* master
            Arg::Ptr(weight),         // const __nv_bfloat16* weight
            Arg::U64(len as u64),     // unsigned long long len
        ];
        // SAFETY: both have `len` elements.
        unsafe { launch(dev, "anneal_adamw_widen", flat(len), &args)? };
    }
    Ok(master)
}

impl AdamwKernel for Cuda {
    fn adamw_weight(
        &self,
        param: &mut Weight<Self>,
        grad: &Buffer<Self>,
        state: &mut AdamwState<Self>,
        factors: AdamwFactors,
    ) -> Result<(), OpError> {
        let len = param.shape().0 * param.shape().1;
        expect_len(OP, grad.len(), len)?;
        expect_len(OP, state.len(), len)?;
        let weight = addr(param)?;
        match &state.moments {
            Moments::F32 { m, v } => {
                if state.master.is_none() {
                    state.master = Some(master(self, weight, len)?);
                }
                let Some(master) = &state.master else { return Ok(()) };
                // float* master, __nv_bfloat16* weight, const __nv_bfloat16* g, float* m, float* v
                let arrays = [addr(master)?, weight, slice_addr(grad), addr(m)?, addr(v)?];
                // SAFETY: all five have `len` elements: the master was made so here or by `write_master`.
                unsafe { update(self, "anneal_adamw_master", &arrays, len, factors) }
            }
            Moments::Short { m, v } => {
                // __nv_bfloat16* p, const __nv_bfloat16* g, __nv_bfloat16* m, __nv_bfloat16* v
                let arrays = [weight, slice_addr(grad), addr(m)?, addr(v)?];
                // SAFETY: all four have `len` elements.
                unsafe { update(self, "anneal_adamw_bf16", &arrays, len, factors) }
            }
        }
    }

    fn adamw_matrix(
        &self,
        param: &mut Matrix<Self>,
        grad: &ParamBuffer<Self>,
        moments: (&mut Vector<Self>, &mut Vector<Self>),
        factors: AdamwFactors,
    ) -> Result<(), OpError> {
        let len = param.shape().0 * param.shape().1;
        update_f32(self, (addr(param)?, len), grad, moments, factors)
    }

    fn adamw_vector(
        &self,
        param: &mut Vector<Self>,
        grad: &ParamBuffer<Self>,
        moments: (&mut Vector<Self>, &mut Vector<Self>),
        factors: AdamwFactors,
    ) -> Result<(), OpError> {
        let len = param.shape().0;
        update_f32(self, (addr(param)?, len), grad, moments, factors)
    }
}
