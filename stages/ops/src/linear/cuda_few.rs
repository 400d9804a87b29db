//! The linear map for few rows on CUDA: which kernel has room for them, its grid, and the flags by which its blocks know
//! that the LoRA branches' first product is done.
//!
//! Unaware of tensors and of what the kernels compute.

use std::sync::{Mutex, PoisonError};

use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::Linear;
use crate::OpError;
use crate::add::narrow;
use crate::cuda::{
    Arg, Grid, Slice, addr, launch, launch_early, multiprocessors, scratch, shared_limit, slice_addr, upload,
};

const OP: &str = "linear_few";

/// Modules of one launch.
pub(crate) const TOGETHER: usize = 3;
/// Bytes of a slot of a stage: 16 for each thread.
const SLOT: u32 = 4096;
/// Most rows of all A that a low block takes: `LOW_OUTS` of few_branch.cuh.
const LOW_OUTS: usize = 8;
/// Rows of x that it takes: `LOW_ROWS`.
const LOW_ROWS: usize = 8;

/// A kernel: MT tiles of 16 weight rows, NT of 8 rows of x, stages, and blocks of a multiprocessor, as in linear_few.cu.
struct Kernel {
    name: &'static str,
    tiles: u32,
    columns: u32,
    stages: u32,
    resident: u32,
}

const PLAIN: [Kernel; 4] = [
    Kernel { name: "anneal_linear_few_8", tiles: 1, columns: 1, stages: 6, resident: 3 },
    Kernel { name: "anneal_linear_few_16", tiles: 2, columns: 2, stages: 4, resident: 2 },
    Kernel { name: "anneal_linear_few_32", tiles: 2, columns: 4, stages: 3, resident: 2 },
    Kernel { name: "anneal_linear_few_64", tiles: 2, columns: 8, stages: 3, resident: 1 },
];
const GATED: [Kernel; 4] = [
    Kernel { name: "anneal_linear_few_gated_8", tiles: 2, columns: 1, stages: 4, resident: 2 },
    Kernel { name: "anneal_linear_few_gated_16", tiles: 2, columns: 2, stages: 4, resident: 2 },
    Kernel { name: "anneal_linear_few_gated_32", tiles: 2, columns: 4, stages: 3, resident: 2 },
    Kernel { name: "anneal_linear_few_gated_64", tiles: 2, columns: 8, stages: 3, resident: 1 },
];

impl Kernel {
    fn rows(&self) -> usize {
        self.columns as usize * 8
    }

    fn shared(&self) -> u32 {
        self.stages * (2 * self.tiles + self.columns) * SLOT
    }

    /// Blocks that run at a time, of which every one has a kibibyte of its multiprocessor's memory beside its own.
    fn at_a_time(&self, dev: &Cuda) -> usize {
        let fit = (shared_limit(dev) + 1024) / (self.shared() + 1024);
        (self.resident.min(fit).max(1) * multiprocessors(dev)) as usize
    }
}

/// Rows of A that a low block takes, and the low blocks: as many as find room beside the `tiles` blocks of the product, of
/// which none should have to begin later for them. Where these begin one after another anyway, a quarter of the room.
fn low_blocks(rank: usize, rows: usize, tiles: usize, room: usize) -> (usize, usize) {
    let spare = room.checked_sub(tiles).unwrap_or(room / 4);
    let blocks = |outs: usize| (outs, rank.div_ceil(outs) * rows.div_ceil(LOW_ROWS));
    [1, 2, 4].map(blocks).into_iter().find(|(_, blocks)| *blocks <= spare).unwrap_or(blocks(LOW_OUTS))
}

/// One map; its addresses are 0 where it has no such part.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FewModule {
    weight: u64,
    bias: u64,
    a: u64,
    b: u64,
    pub(crate) outs: usize,
    /// Of its branch; 0 for none.
    pub(crate) rank: usize,
    scaling: f32,
}

impl FewModule {
    /// A module's.
    pub(crate) fn of(args: &Linear<Cuda>) -> Result<Self, OpError> {
        let &(outs, _) = args.weight.shape();
        let mut module = Self { weight: addr(&args.weight)?, outs, ..Self::default() };
        if let Some(bias) = &args.bias {
            module.bias = addr(bias)?;
        }
        if let Some(lora) = &args.lora {
            let &(rank, _) = lora.a.shape();
            (module.a, module.b, module.rank, module.scaling) = (addr(&lora.a)?, addr(&lora.b)?, rank, lora.scaling);
        }
        Ok(module)
    }

    /// A weight alone.
    pub(crate) fn plain(weight: u64, outs: usize) -> Self {
        Self { weight, outs, ..Self::default() }
    }
}

/// What one call computes: for each of `modules` its output at `outs`, `[rows, outs]`.
#[derive(Clone, Copy)]
pub(crate) struct Few<'a> {
    pub(crate) x: u64,
    /// Added to each output; 0 for none.
    pub(crate) onto: u64,
    /// Room for `rows` times all modules' [ranks](FewModule::rank) in f32, at a multiple of 16; 0: the call makes it.
    pub(crate) u: u64,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// At most [`TOGETHER`]; with `gated` two, gate and up.
    pub(crate) modules: &'a [FewModule],
    pub(crate) outs: &'a [u64],
    /// One output: `silu(gate) * up`.
    pub(crate) gated: bool,
    /// Outputs are f32, and not rounded. Not with `gated`.
    pub(crate) wide: bool,
    /// Begin with the weights while the kernel ahead still runs ([`launch_early`]).
    pub(crate) early: bool,
}

/// Flags of low blocks. Launches follow one another on one stream, so all share them; what a flag holds says of which
/// launch it is.
#[derive(Default)]
struct Ready {
    /// The last are in use. Smaller ones are kept: another thread may be about to launch with them.
    flags: Vec<Slice<u32>>,
    room: usize,
    epoch: u32,
}

static READY: Mutex<Option<Ready>> = Mutex::new(None);

/// Address of `blocks` flags, none of which holds the epoch returned with it.
fn ready(dev: &Cuda, blocks: usize) -> Result<(u64, u32), OpError> {
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    let held = ready.get_or_insert_default();
    if held.room < blocks {
        let room = blocks.next_power_of_two().max(1024);
        held.flags.push(upload(dev, &vec![0u32; room])?);
        held.room = room;
    }
    // Never 0, which fresh flags hold.
    held.epoch = held.epoch.wrapping_add(1).max(1);
    Ok((held.flags.last().map_or(0, slice_addr), held.epoch))
}

/// Whether the kernels take rows of this width.
pub(crate) fn fits(width: usize) -> bool {
    width > 0 && width.is_multiple_of(8) && u32::try_from(width).is_ok()
}

fn check(call: &Few) -> Result<(), OpError> {
    let modules = if call.gated { 2..=2 } else { 1..=TOGETHER };
    let outs = if call.gated { 1 } else { call.modules.len() };
    let aligned = |module: &FewModule| (module.weight | module.a).is_multiple_of(16);
    let odd =
        call.gated && (call.wide || call.onto != 0 || call.modules.iter().any(|m| m.outs != call.modules[0].outs));
    if !modules.contains(&call.modules.len()) || call.outs.len() != outs || odd {
        return Err(OpError::argument(OP, "the modules do not fit together"));
    }
    if !fits(call.width) || !call.x.is_multiple_of(16) || !call.modules.iter().all(aligned) {
        return Err(OpError::argument(OP, format!("rows of {} elements that are not in vectors", call.width)));
    }
    Ok(())
}

/// Runs the map, as many rows at a time as a kernel has room for. A row's bits do not depend on the other rows.
///
/// # Errors
/// If the sizes do not fit the kernels ([`fits`]), or the device failed.
///
/// # Safety
/// Addresses are those of live allocations: x `[rows, width]`; of each module the weight `[outs, width]`, and where they
/// are not 0 the bias `[outs]`, A `[rank, width]`, B `[outs, rank]`; outputs and the residual `[rows, outs]`, in bf16, or
/// outputs in f32 if `wide`; u as it says. With `early` all but x and the residual were written
/// before the last kernel that was launched by [`launch`]. No output overlaps an input but the residual, with which it may be one.
pub(crate) unsafe fn few(dev: &Cuda, call: &Few) -> Result<(), OpError> {
    check(call)?;
    let limit = shared_limit(dev);
    let kernels = if call.gated { &GATED } else { &PLAIN };
    let usable = || kernels.iter().filter(|kernel| kernel.shared() <= limit);
    let most = usable().map(Kernel::rows).max().unwrap_or(0);
    if most == 0 {
        return Err(OpError::argument(OP, format!("a block has {limit} bytes of shared memory")));
    }
    for first in (0..call.rows).step_by(most) {
        let rows = most.min(call.rows - first);
        let Some(kernel) = usable().find(|kernel| kernel.rows() >= rows) else { continue };
        // SAFETY: the caller's promise; the rows lie within x and the outputs.
        unsafe { part(dev, call, kernel, first, rows) }?;
    }
    Ok(())
}

/// Rows `first..first + rows` of the call, for which the kernel has room.
///
/// # Safety
/// As [`few`].
unsafe fn part(dev: &Cuda, call: &Few, kernel: &Kernel, first: usize, rows: usize) -> Result<(), OpError> {
    let of_block = kernel.tiles as usize * if call.gated { 8 } else { 16 };
    let tiles: usize = match call.gated {
        true => call.modules[0].outs.div_ceil(of_block),
        false => call.modules.iter().map(|module| module.outs.div_ceil(of_block)).sum(),
    };
    let rank: usize = call.modules.iter().map(|module| module.rank).sum();
    let (low_outs, low_blocks) = low_blocks(rank, rows, tiles, kernel.at_a_time(dev));
    let own = if rank > 0 && call.u == 0 { Some(scratch::<f32>(dev, rows * rank)?) } else { None };
    let u = own.as_ref().map_or(call.u, slice_addr);
    let (flags, epoch) = if rank > 0 { ready(dev, low_blocks)? } else { (0, 0) };
    let onto = if call.onto == 0 { 0 } else { call.onto + 2 * (first * call.modules[0].outs) as u64 };
    let mut args = Vec::with_capacity(10 + 8 * TOGETHER);
    args.extend([
        Arg::Ptr(call.x + 2 * (first * call.width) as u64), // const bf16* x
        Arg::Ptr(onto),                                     // const bf16* onto
        Arg::Ptr(u),                                        // float* u
        Arg::Ptr(flags),                                    // unsigned* ready
        Arg::U32(narrow(OP, "blocks", low_blocks)?),        // unsigned low_blocks
        Arg::U32(low_outs as u32),                          // unsigned low_outs
        Arg::U32(epoch),                                    // unsigned epoch
        Arg::U32(rows as u32),                              // unsigned rows
        Arg::U32(narrow(OP, "width", call.width)?),         // unsigned width
        Arg::U32(u32::from(call.wide)),                     // unsigned wide
    ]);
    let each = if call.wide { 4 } else { 2 };
    for index in 0..TOGETHER {
        let module = call.modules.get(index).copied().unwrap_or_default();
        let out = call.outs.get(index).map_or(0, |out| out + each * (first * module.outs) as u64);
        args.extend([
            Arg::Ptr(module.weight),                       // const bf16* weight
            Arg::Ptr(out),                                 // void* out
            Arg::Ptr(module.bias),                         // const float* bias
            Arg::Ptr(module.a),                            // const float* a
            Arg::Ptr(module.b),                            // const float* b
            Arg::U32(narrow(OP, "outputs", module.outs)?), // unsigned outs
            Arg::U32(narrow(OP, "rank", module.rank)?),    // unsigned rank
            Arg::F32(module.scaling),                      // float scaling
        ]);
    }
    let blocks = (narrow(OP, "blocks", tiles + low_blocks)?, 1, 1);
    let grid = Grid { blocks, threads: 256, shared_bytes: kernel.shared() };
    // SAFETY: the caller's promise; u has room for all rows, and the flags for the low blocks, which are kept.
    unsafe {
        match call.early {
            true => launch_early(dev, kernel.name, grid, &args),
            false => launch(dev, kernel.name, grid, &args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::low_blocks;

    #[test]
    fn low_blocks_find_room_beside_the_product() {
        // Rank, rows, the product's blocks and the room for all: what one takes, and how many there are.
        assert_eq!(low_blocks(0, 5, 384, 396), (1, 0));
        assert_eq!(low_blocks(16, 1, 256, 396), (1, 16));
        assert_eq!(low_blocks(48, 1, 384, 396), (4, 12));
        assert_eq!(low_blocks(48, 32, 192, 264), (4, 48));
        assert_eq!(low_blocks(48, 1, 396, 396), (8, 6));
        // Blocks of the product that begin one after another.
        assert_eq!(low_blocks(32, 1, 896, 264), (1, 32));
        assert_eq!(low_blocks(32, 32, 896, 264), (2, 64));
        assert_eq!(low_blocks(9, 9, 1000, 100), (1, 18));
    }
}
