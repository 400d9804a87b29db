//! Decoding on CUDA: two launches a layer for all sequences, and the table of where their caches lie.
//!
//! Unaware of what the kernels compute.

use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::cuda_cache::CudaCache;
use super::cuda_choice::WIDEST;
use super::cuda_kernel::sizes;
use super::{Cached, Heads};
use crate::OpError;
use crate::add::narrow;
use crate::backend::Act;
use crate::cuda::{Arg, Grid, Slice, addr, launch, launch_early, new_act, scratch, slice_addr, upload};

const OP: &str = "decode_attention";

/// Threads of every block: `THREADS` of mma.cuh.
const THREADS: u32 = 128;
/// Threads of a merging block: `MERGE_THREADS` of decode.cuh.
const MERGE_THREADS: u32 = 256;
/// Keys of a part: `PART_KEYS` of decode.cuh.
const PART_KEYS: usize = 64;
/// Query heads of a block on tensor cores: `TILE_HEADS` of decode_tiles.cuh.
const TILE_HEADS: usize = 8;
/// Most query heads of a block without: the largest `HEADS` of decode.cuh's kernels.
const WIDE_HEADS: usize = 4;
/// Sequences of a launch: what a grid's third dimension takes.
const MOST: usize = 65_535;

/// One layer's caches as the kernels read them: for each sequence the addresses of keys and values and its number of rows
/// when the table was made. While the same sequences grow by a row a step, nothing is sent to the device.
#[derive(Debug, Default)]
pub struct CudaTable {
    host: Vec<u64>,
    device: Option<Slice<u64>>,
}

impl CudaTable {
    /// Makes the table that of these sequences; returns its address and how many rows all of them have grown by since.
    fn follow(&mut self, dev: &Cuda, sequences: &[Cached<'_, CudaCache>]) -> Result<(u64, usize), OpError> {
        let now = || sequences.iter().map(|sequence| (sequence.cache.addresses(), sequence.len as u64));
        let step = match (self.host.get(2), sequences.first()) {
            (Some(then), Some(first)) => (first.len as u64).checked_sub(*then),
            _ => None,
        };
        let same = |step: u64| {
            let entries = self.host.chunks_exact(3);
            entries.len() == sequences.len()
                && entries.zip(now()).all(|(then, (at, len))| then[..2] == at && then[2] + step == len)
        };
        if let (Some(step), Some(device)) = (step.filter(|step| same(*step)), &self.device) {
            return Ok((slice_addr(device), step as usize));
        }
        // Nothing is kept of the old table if this fails half-way.
        self.device = None;
        self.host = now().flat_map(|([k, v], len)| [k, v, len]).collect();
        let device = self.device.insert(upload(dev, &self.host)?);
        Ok((slice_addr(device), 0))
    }
}

/// Whether the kernels take heads of this size.
pub(crate) fn decode_takes(heads: Heads) -> bool {
    heads.head_dim.is_multiple_of(8) && heads.head_dim <= WIDEST
}

/// [`super::AttentionKernel::attention_decode`] for heads of a multiple of 8 elements, at most 256.
pub(super) fn decode(
    dev: &Cuda,
    q: &Act<Cuda>,
    k: &Act<Cuda>,
    v: &Act<Cuda>,
    heads: Heads,
    sequences: &mut [Cached<'_, CudaCache>],
    table: &mut CudaTable,
) -> Result<Act<Cuda>, OpError> {
    let &(count, q_width) = q.shape();
    let out = new_act(dev, count, q_width)?;
    if count > 0 {
        let addresses = [addr(q)?, addr(k)?, addr(v)?, addr(&out)?];
        // SAFETY: `decode_attention` checked that q, k and v have a row for each sequence; `out` was made like q.
        unsafe { decode_at(dev, addresses, heads, sequences, table, false) }?;
    }
    Ok(out)
}

/// As above, between the addresses of q, k, v and the output. With `early` the caches are read while the kernel ahead, which
/// makes q, k and v, still runs.
///
/// # Safety
/// With `early` what the caches hold was written before the last kernel that was launched by [`launch`].
/// They are those of live allocations with a row of the heads' widths for each sequence, of which there is one at least;
/// each cache holds `len` rows of the heads' width. [`decode_takes`] the heads.
pub(crate) unsafe fn decode_at(
    dev: &Cuda,
    [q, k, v, out]: [u64; 4],
    heads: Heads,
    sequences: &mut [Cached<'_, CudaCache>],
    table: &mut CudaTable,
    early: bool,
) -> Result<(), OpError> {
    let count = sequences.len();
    if count > MOST {
        return Err(OpError::argument(OP, format!("{count} sequences at once; the CUDA kernels take {MOST}")));
    }
    let (mut longest, mut moved) = (0, false);
    for sequence in sequences.iter_mut() {
        // SAFETY: the caller's promise.
        moved |= unsafe { sequence.cache.make_room(dev, sequence.len, 1, heads.kv_width(), sequence.reserve)? };
        longest = longest.max(sequence.len + 1);
    }
    narrow(OP, "rows of a cache", longest + PART_KEYS)?;
    let (entries, step) = table.follow(dev, sequences)?;
    let splits = longest.div_ceil(PART_KEYS);
    let outputs = count * heads.n_heads * splits;
    let room = scratch::<f32>(dev, outputs * (heads.head_dim + 2))?;
    let parts = slice_addr(&room);
    let stats = parts + (4 * outputs * heads.head_dim) as u64;
    // Query heads of a block: all that share keys, so that these are read once, if the kernel takes so many.
    let (name, each) = match (heads.head_dim, heads.group()) {
        (..=64, _) => ("anneal_attention_decode_64", TILE_HEADS),
        (65..=80, _) => ("anneal_attention_decode_80", TILE_HEADS),
        (81..=96, _) => ("anneal_attention_decode_96", TILE_HEADS),
        (97..=128, _) => ("anneal_attention_decode_128", TILE_HEADS),
        (_, 1) => ("anneal_attention_decode_wide_1", 1),
        (_, 2) => ("anneal_attention_decode_wide_2", 2),
        (_, _) => ("anneal_attention_decode_wide_4", WIDE_HEADS),
    };
    let [n_heads, n_kv_heads, dim, scale] = sizes(heads);
    let args = [
        Arg::Ptr(q),           // const bf16* q
        Arg::Ptr(k),           // const bf16* k
        Arg::Ptr(v),           // const bf16* v
        Arg::Ptr(entries),     // const Sequence* sequences
        Arg::I32(step as i32), // int step
        Arg::Ptr(parts),       // float* parts
        Arg::Ptr(stats),       // float2* stats
        n_heads,               // int n_heads
        n_kv_heads,            // int n_kv_heads
        dim,                   // int dim
        scale,                 // float scale
    ];
    let passes = heads.n_kv_heads * heads.group().div_ceil(each);
    let blocks = (splits as u32, narrow(OP, "heads", passes)?, count as u32);
    let grid = Grid { blocks, threads: THREADS, shared_bytes: 0 };
    // SAFETY: q, k and v have a row for each sequence (the caller's promise); each cache has room for one row
    // more than it holds; `room` has a part for every sequence, head and split. The table's memory is freed in stream
    // order when it is replaced. Early the kernel reads the table and the caches, and only if neither is newer than the
    // caller says: rows that moved, and with them the table, have just been written.
    unsafe {
        match early && !moved && step > 0 {
            true => launch_early(dev, name, grid, &args)?,
            false => launch(dev, name, grid, &args)?,
        }
    }
    let args = [
        Arg::Ptr(parts),         // const float* parts
        Arg::Ptr(stats),         // const float2* stats
        Arg::Ptr(entries),       // const Sequence* sequences
        Arg::I32(step as i32),   // int step
        Arg::Ptr(out),           // bf16* out
        n_heads,                 // int n_heads
        dim,                     // int dim
        Arg::I32(splits as i32), // int splits
    ];
    let blocks = (narrow(OP, "heads", heads.n_heads)?, count as u32, 1);
    let grid = Grid { blocks, threads: MERGE_THREADS, shared_bytes: 0 };
    // SAFETY: as above; `out` has a row for each sequence. This kernel waits before it reads anything.
    unsafe { launch_early(dev, "anneal_attention_decode_merge", grid, &args) }
}
