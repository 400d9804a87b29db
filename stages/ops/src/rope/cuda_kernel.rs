//! Rotary positions on CUDA. Positions go to the device once for all layers of a batch (`RopeTable` keeps them).
//! Unaware of where in a model it stands.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::{RopeKernel, Rotation};
use crate::add::{VECTOR, narrow};
use crate::attention::Heads;
use crate::backend::{Act, Buffer};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Grid, Slice, addr, launch, launch_early, new_act, slice_addr, upload};
use crate::{Category, OpError};

/// Heads that share a thread's cosines: `HEADS` of rope.cu. Decides the grid only, since threads loop.
const HEADS: usize = 4;

/// What becomes of `x`.
#[derive(Clone, Copy, PartialEq)]
enum Turn {
    /// `out = ` `x` rotated.
    Forward,
    /// `out = ` `x` rotated back.
    Back,
    /// `out += ` `x` rotated back.
    BackAdded,
}

/// Launches the kernel for this head size.
///
/// # Safety
/// `out` and `x` are live allocations of `rows * width` elements.
unsafe fn rotate(
    dev: &Cuda,
    turn: Turn,
    (out, x): (u64, u64),
    (rows, width): (usize, usize),
    rotation: Rotation<Cuda>,
) -> Result<(), OpError> {
    let half = rotation.cos.shape().1;
    if rows == 0 || width == 0 {
        return Ok(());
    }
    if half == 0 || !width.is_multiple_of(2 * half) || rotation.positions.len() != rows {
        let table = ("rows, head_dim / 2", (rotation.positions.len(), half));
        return Err(OpError::shape("rope", ("x", (rows, width)), table));
    }
    let heads = width / (2 * half);
    let vectors = half.is_multiple_of(VECTOR);
    let items = if vectors { rows * (half / VECTOR) * heads.div_ceil(HEADS) } else { rows * heads * half };
    let name = match (turn != Turn::Forward, vectors) {
        (false, true) => "anneal_rope_forward",
        (false, false) => "anneal_rope_forward_any",
        (true, true) => "anneal_rope_backward",
        (true, false) => "anneal_rope_backward_any",
    };
    let blocks = items.div_ceil(256).min(i32::MAX as usize) as u32;
    let args = [
        Arg::Ptr(out),                                   // __nv_bfloat16* out
        Arg::Ptr(x),                                     // const __nv_bfloat16* x
        Arg::Ptr(addr(rotation.cos)?),                   // const float* cosines
        Arg::Ptr(addr(rotation.sin)?),                   // const float* sines
        Arg::Ptr(slice_addr(rotation.positions)),        // const unsigned* positions
        Arg::U64(rows as u64),                           // unsigned long long rows
        Arg::U32(narrow("rope", "heads", heads)?),       // unsigned heads
        Arg::U32(narrow("rope", "head_dim / 2", half)?), // unsigned half
        Arg::U32(u32::from(turn == Turn::BackAdded)),    // unsigned add
    ];
    // SAFETY: the caller answers for x and out. `rows` positions were checked above; `rope` checked that each is below
    // the tables' length.
    unsafe { launch(dev, name, Grid { blocks: (blocks, 1, 1), threads: 256, shared_bytes: 0 }, &args) }
}

/// Queries and keys that are rotated in place, by their addresses.
pub(crate) struct Pair {
    pub(crate) q: u64,
    pub(crate) k: u64,
    pub(crate) cos: u64,
    pub(crate) sin: u64,
    pub(crate) positions: u64,
    /// Their size is a multiple of 16.
    pub(crate) heads: Heads,
}

/// Rotates both, `rows` rows each, in one launch.
///
/// # Safety
/// Addresses are those of live allocations: q and k have `rows` rows of the heads' widths, positions `rows` indices below
/// the tables' length, the tables rows of half a head.
pub(crate) unsafe fn rotate_pair(dev: &Cuda, pair: &Pair, rows: usize) -> Result<(), OpError> {
    let Heads { n_heads, n_kv_heads, head_dim } = pair.heads;
    let half = head_dim / 2;
    if !half.is_multiple_of(VECTOR) {
        return Err(OpError::shape("rope", ("head_dim", head_dim), ("vectors", 2 * VECTOR)));
    }
    let args = [
        Arg::Ptr(pair.q),                                         // __nv_bfloat16* q
        Arg::Ptr(pair.k),                                         // __nv_bfloat16* k
        Arg::Ptr(pair.cos),                                       // const float* cosines
        Arg::Ptr(pair.sin),                                       // const float* sines
        Arg::Ptr(pair.positions),                                 // const unsigned* positions
        Arg::U64(rows as u64),                                    // unsigned long long rows
        Arg::U32(narrow("rope", "heads", n_heads)?),              // unsigned q_heads
        Arg::U32(narrow("rope", "key/value heads", n_kv_heads)?), // unsigned k_heads
        Arg::U32(narrow("rope", "head_dim / 2", half)?),          // unsigned half
    ];
    let items = rows * (half / VECTOR) * n_heads.div_ceil(HEADS);
    let blocks = (items.div_ceil(256).min(i32::MAX as usize) as u32, 2, 1);
    // SAFETY: the caller's promise is the kernel's, which waits before it reads anything.
    unsafe { launch_early(dev, "anneal_rope_pair", Grid { blocks, threads: 256, shared_bytes: 0 }, &args) }
}

impl RopeKernel for Cuda {
    type Positions = Slice<u32>;

    fn rope_positions(&self, positions: &[u32]) -> Result<Slice<u32>, OpError> {
        // No allocation is empty: the kernels are not launched without rows, but `upload` may refuse.
        let list = upload(self, if positions.is_empty() { &[0] } else { positions });
        list.map_err(|error| error.lacking(Category::Activations))
    }

    fn rope_forward(&self, x: &Act<Self>, rotation: Rotation<Self>) -> Result<Act<Self>, OpError> {
        let &(rows, width) = x.shape();
        let out = new_act(self, rows, width)?;
        // SAFETY: `out` was made with x's shape.
        unsafe { rotate(self, Turn::Forward, (addr(&out)?, addr(x)?), (rows, width), rotation)? };
        Ok(out)
    }

    /// Always a new tensor: from outside dfdx a device tensor does not show whether its storage is shared.
    fn rope_reusing(&self, x: Act<Self>, rotation: Rotation<Self>) -> Result<Act<Self>, OpError> {
        self.rope_forward(&x, rotation)
    }

    fn rope_backward(
        &self,
        d: &Buffer<Self>,
        rotation: Rotation<Self>,
        d_x: &mut Buffer<Self>,
        unwritten: bool,
    ) -> Result<(), OpError> {
        expect_len("rope", d.len(), d_x.len())?;
        let rows = rotation.positions.len();
        if d.len() == 0 {
            return Ok(());
        }
        if !d.len().is_multiple_of(rows) {
            return Err(OpError::shape("rope", ("gradient", [d.len()]), ("rows", rows)));
        }
        let turn = if unwritten { Turn::Back } else { Turn::BackAdded };
        // SAFETY: both buffers have `rows * width` elements.
        unsafe { rotate(self, turn, (slice_addr(d_x), slice_addr(d)), (rows, d.len() / rows), rotation) }
    }
}
