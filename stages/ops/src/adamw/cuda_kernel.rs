//! AdamW on CUDA: one launch for all parameters of a kind, in place.
//!
//! A tensor that shares its storage with a parameter sees the update, unlike on the CPU, where it would be copied
//! first: from outside dfdx a device tensor does not show whether it is shared.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;

use super::{AdamwFactors, AdamwHyper, AdamwKernel, AdamwPart, Moments};
use crate::OpError;
use crate::add::{VECTOR, flat};
use crate::backend::Vector;
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Group, Table, addr, launch, new_vector, slice_addr};
use crate::param::{Gradient, ParamRef};
use crate::tape::Grads;

const OP: &str = "adamw";

/// Threads of a block.
const THREADS: usize = 256;

/// Parameters that one kernel takes, and its name.
struct Kind {
    kernel: &'static str,
    /// `Entry` of adamw.cu: addresses of what the arithmetic runs on, of its copy in bf16, of gradient and moments,
    /// then elements of each and `keep`.
    table: Table<7>,
}

impl Kind {
    fn new(kernel: &'static str) -> Self {
        Self { kernel, table: Table::default() }
    }

    /// Arrays of `len` elements each; the copy's address may be 0 where the kernel makes none.
    fn push(&mut self, [p, copy, g, m, v]: [u64; 5], len: usize, keep: f32) {
        // A thread for each whole vector and each element that is left.
        let blocks = (len / VECTOR + len % VECTOR).div_ceil(THREADS);
        self.table.push([p, copy, g, m, v, len as u64, u64::from(keep.to_bits())], blocks);
    }
}

/// # Safety
/// Each entry of the group is of live allocations of the kernel's types and of as many elements as it says, no two of
/// which are the same.
unsafe fn update(dev: &Cuda, kernel: &'static str, group: &Group, factors: AdamwFactors) -> Result<(), OpError> {
    let AdamwFactors { keep: _, fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale } = factors;
    // const unsigned long long* table, unsigned count
    let mut args = group.args().to_vec();
    // float fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale
    args.extend([fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale].map(Arg::F32));
    // SAFETY: the caller's for what the table says; the table is freed in stream order.
    unsafe { launch(dev, kernel, group.grid(THREADS as u32), &args) }
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
    fn adamw(
        &self,
        parts: &mut [AdamwPart<'_, Self>],
        grads: &mut Grads<Self>,
        hyper: &AdamwHyper,
    ) -> Result<(), OpError> {
        let [mut full, mut mastered, mut short] =
            ["anneal_adamw_f32", "anneal_adamw_master", "anneal_adamw_bf16"].map(Kind::new);
        let mut seen = Vec::with_capacity(2 * parts.len());
        for AdamwPart { param, state, decays } in parts {
            let (param_addr, big) = match param {
                ParamRef::Weight(p) => (addr(p)?, true),
                ParamRef::Matrix(p) => (addr(p)?, false),
                ParamRef::Vector(p) => (addr(p)?, false),
            };
            let len = param.len();
            let (grad, grad_len) = match param.gradient(grads)? {
                Gradient::Elems(d) => (slice_addr(d), d.len()),
                Gradient::Floats(d) => (slice_addr(d), d.len()),
            };
            expect_len(OP, grad_len, len)?;
            expect_len(OP, state.len(), len)?;
            let keep = hyper.factors(*decays).keep;
            let (kind, [p, copy, m, v]) = match &state.moments {
                Moments::Short { m, v } => (&mut short, [param_addr, 0, addr(m)?, addr(v)?]),
                Moments::F32 { m, v } if !big => (&mut full, [param_addr, 0, addr(m)?, addr(v)?]),
                Moments::F32 { m, v } => {
                    let master = match &mut state.master {
                        Some(master) => master,
                        none => none.insert(master(self, param_addr, len)?),
                    };
                    (&mut mastered, [addr(master)?, param_addr, addr(m)?, addr(v)?])
                }
            };
            if len > 0 {
                seen.extend([param_addr, grad]);
                kind.push([p, copy, grad, m, v], len, keep);
            }
        }
        seen.sort_unstable();
        if seen.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(OpError::argument(OP, "a parameter came twice"));
        }
        // All tables are there before the first launch: for want of memory no parameter changes.
        let kinds = [full, mastered, short].into_iter().filter(|kind| !kind.table.is_empty());
        let ready = kinds.map(|kind| Ok((kind.kernel, kind.table.upload(OP, self)?)));
        for (kernel, group) in ready.collect::<Result<Vec<_>, OpError>>()? {
            // SAFETY: all arrays have `len` elements: gradient and moments were looked at, the master was made so here
            // or by `write_master`. Short moments come with a big weight only, which `step` checked, so each kernel
            // gets its types. No two parameters or gradients have one address, and each state owns its arrays and is
            // borrowed once.
            unsafe { update(self, kernel, &group, hyper.factors(true))? };
        }
        Ok(())
    }
}
