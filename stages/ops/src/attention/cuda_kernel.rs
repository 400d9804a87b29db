//! Attention on CUDA: picks the kernels for a head size, sizes their grids, launches them.
//!
//! Unaware of what they compute.
//!
//! Head sizes that are multiples of 8 up to 128 run on tensor cores, in tiles with room for 64, 80, 96 or 128 elements;
//! other sizes up to 256 on plain kernels.

use cudarc::driver::DeviceSlice;
use cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED_LIMIT;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;
use dfdx::tensor::Storage;

use super::cuda_cache::CudaCache;
use super::cuda_decode::{CudaTable, decode};
use super::plan::{BACKWARD_ROWS, FORWARD_ROWS, KEY_ROWS, List, Plan};
use super::{AttentionKernel, Cached, Heads, Layout, Saved};
use crate::OpError;
use crate::backend::{Act, Buffer, Vector};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Bf16, Grid, Slice, addr, launch, new_act, new_vector, scratch, slice_addr, upload};

const OP: &str = "attention";

/// Threads of every block: `THREADS` of mma.cuh.
const THREADS: usize = 128;
/// Query rows of a block of the key kernel: `QUERIES` of backward_kv.cuh.
const QUERIES: usize = 64;
/// The largest head size.
pub(super) const WIDEST: usize = 256;

/// Kernels for a head size.
struct Kernels {
    /// Elements of a head that a tile has room for; 0 for the plain kernels, which have no tiles.
    room: usize,
    forward: &'static str,
    backward_kv: &'static str,
    backward_q: &'static str,
}

macro_rules! kernels {
    ($room:expr, $suffix:literal) => {
        Kernels {
            room: $room,
            forward: concat!("anneal_attention_forward_", $suffix),
            backward_kv: concat!("anneal_attention_backward_kv_", $suffix),
            backward_q: concat!("anneal_attention_backward_q_", $suffix),
        }
    };
}

const TENSOR_CORES: [Kernels; 4] = [kernels!(64, "64"), kernels!(80, "80"), kernels!(96, "96"), kernels!(128, "128")];
const PLAIN: Kernels = kernels!(0, "plain");

impl Kernels {
    fn of(heads: Heads) -> Result<&'static Self, OpError> {
        let dim = heads.head_dim;
        if dim > WIDEST {
            let message = format!("heads of {dim} elements: the CUDA kernels take up to {WIDEST}");
            return Err(OpError::argument(OP, message));
        }
        let fits = TENSOR_CORES.iter().find(|kernels| dim.is_multiple_of(8) && dim <= kernels.room);
        Ok(fits.unwrap_or(&PLAIN))
    }

    /// Bytes of shared memory for tiles of so many rows together.
    fn shared(&self, rows: usize) -> usize {
        if self.room == 0 { 0 } else { rows * (self.room + 8) * size_of::<Bf16>() }
    }
}

/// A launch of `blocks * each` blocks.
fn grid(blocks: usize, each: usize, shared_bytes: usize) -> Result<Grid, OpError> {
    let all = blocks.checked_mul(each).and_then(|n| i32::try_from(n).ok());
    let all = all.ok_or_else(|| OpError::argument(OP, format!("{blocks} tiles of {each} heads are too many")))?;
    Ok(Grid { blocks: (all as u32, 1, 1), threads: THREADS as u32, shared_bytes: shared_bytes as u32 })
}

/// The last arguments of most kernels: `int n_heads, int n_kv_heads, int dim, float scale`.
pub(super) fn sizes(heads: Heads) -> [Arg; 4] {
    let [n_heads, n_kv_heads, dim] = [heads.n_heads, heads.n_kv_heads, heads.head_dim].map(|n| Arg::I32(n as i32));
    [n_heads, n_kv_heads, dim, Arg::F32(heads.scale())]
}

/// Work lists on the device.
struct Lists {
    plan: Plan,
    values: Slice<i32>,
}

impl Lists {
    /// Those of a layout, made once for all layers.
    fn of<'a>(dev: &Cuda, layout: &'a Layout) -> Result<&'a Self, OpError> {
        layout.keep(|| {
            let mut plan = Plan::new(layout)?;
            let values = upload(dev, &std::mem::take(&mut plan.values))?;
            Ok(Self { plan, values })
        })
    }

    fn addr(&self, list: List) -> u64 {
        slice_addr(&self.values) + (list.at * size_of::<i32>()) as u64
    }
}

/// Launches forward over the query tiles at `tiles`. `lse` may be 0: not wanted.
///
/// # Safety
/// `q` and `out` have the rows of the tiles' queries, `k` and `v` those of their keys, `lse` `n_heads` floats a row.
unsafe fn forward(
    dev: &Cuda,
    [q, k, v, out, lse]: [u64; 5],
    heads: Heads,
    tiles: u64,
    count: usize,
) -> Result<(), OpError> {
    let kernels = Kernels::of(heads)?;
    let [n_heads, n_kv_heads, dim, scale] = sizes(heads);
    let args = [
        Arg::Ptr(q),     // const bf16* q
        Arg::Ptr(k),     // const bf16* k
        Arg::Ptr(v),     // const bf16* v
        Arg::Ptr(out),   // bf16* out
        Arg::Ptr(lse),   // float* lse
        Arg::Ptr(tiles), // const QueryTile* tiles
        n_heads,         // int n_heads
        n_kv_heads,      // int n_kv_heads
        dim,             // int dim
        scale,           // float scale
    ];
    let grid = grid(count, heads.n_heads, kernels.shared(FORWARD_ROWS + 2 * KEY_ROWS))?;
    // SAFETY: the caller's.
    unsafe { launch(dev, kernels.forward, grid, &args) }
}

/// A gradient to be overwritten.
fn fresh(dev: &Cuda, len: usize) -> Result<Buffer<Cuda>, OpError> {
    let mut buffer = Storage::<Bf16>::try_alloc_len(dev, 0).map_err(OpError::device)?;
    *buffer = scratch(dev, len)?; // dfdx would zero it
    Ok(buffer)
}

/// (log2-sum-exp, delta) of every (row, head), as f32 pairs.
fn statistics(dev: &Cuda, saved: &Saved<Cuda>, d: &Buffer<Cuda>, heads: Heads) -> Result<Slice<f32>, OpError> {
    let pairs = saved.lse.shape().0;
    let stats = scratch::<f32>(dev, 2 * pairs)?;
    let (name, lanes) = match heads.head_dim.is_multiple_of(8) {
        true => ("anneal_attention_statistics", 8),
        false => ("anneal_attention_statistics_plain", 32),
    };
    let args = [
        Arg::Ptr(addr(&saved.out)?),     // const bf16* out
        Arg::Ptr(slice_addr(d)),         // const bf16* d
        Arg::Ptr(addr(&saved.lse)?),     // const float* lse
        Arg::Ptr(slice_addr(&stats)),    // float2* stats
        Arg::U64(pairs as u64),          // unsigned long long pairs
        Arg::I32(heads.head_dim as i32), // int dim
    ];
    let grid = grid(pairs.div_ceil(THREADS / lanes), 1, 0)?;
    // SAFETY: out and d have `pairs * head_dim` elements, lse `pairs`; the kernel reads and writes no more.
    unsafe { launch(dev, name, grid, &args)? };
    Ok(stats)
}

impl AttentionKernel for Cuda {
    type Cache = CudaCache;
    type Table = CudaTable;
    /// A row of a tile computes what it would compute anywhere.
    const ALIGNED_ROWS: usize = 1;

    fn attention_forward(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        layout: &Layout,
    ) -> Result<(Act<Self>, Vector<Self>), OpError> {
        let &(tokens, q_width) = q.shape();
        let out = new_act(self, tokens, q_width)?;
        let lse = new_vector(self, tokens * heads.n_heads)?;
        if tokens > 0 {
            let lists = Lists::of(self, layout)?;
            let tiles = lists.plan.forward;
            let addresses = [addr(q)?, addr(k)?, addr(v)?, addr(&out)?, addr(&lse)?];
            // SAFETY: `attention` checked that all have the layout's rows and the heads' widths, as its list has.
            unsafe { forward(self, addresses, heads, lists.addr(tiles), tiles.count)? };
        }
        Ok((out, lse))
    }

    fn attention_backward(
        &self,
        saved: &Saved<Self>,
        d: &Buffer<Self>,
        heads: Heads,
        layout: &Layout,
    ) -> Result<[Buffer<Self>; 3], OpError> {
        let tokens = layout.tokens();
        expect_len(OP, d.len(), tokens * heads.q_width())?;
        let fresh = |width| fresh(self, tokens * width);
        let [d_q, d_k, d_v] = [fresh(heads.q_width())?, fresh(heads.kv_width())?, fresh(heads.kv_width())?];
        if tokens == 0 {
            return Ok([d_q, d_k, d_v]);
        }
        let (kernels, lists) = (Kernels::of(heads)?, Lists::of(self, layout)?);
        let stats = statistics(self, saved, d, heads)?;
        let [n_heads, n_kv_heads, dim, scale] = sizes(heads);
        let inputs = [
            Arg::Ptr(addr(&saved.q)?),    // const bf16* q
            Arg::Ptr(addr(&saved.k)?),    // const bf16* k
            Arg::Ptr(addr(&saved.v)?),    // const bf16* v
            Arg::Ptr(slice_addr(d)),      // const bf16* d
            Arg::Ptr(slice_addr(&stats)), // const float2* stats
        ];

        // Two blocks of queries in flight if two such blocks of threads fit a multiprocessor, else one.
        let stage = kernels.shared(2 * QUERIES) + 2 * QUERIES * size_of::<f32>();
        let tiles = kernels.shared(2 * KEY_ROWS);
        let limit = d.device().attribute(SHARED_LIMIT).map_err(OpError::driver)? as usize;
        let stages = if 2 * (tiles + 2 * stage) <= limit { 2 } else { 1 };
        let mut args = inputs.to_vec();
        args.extend([
            Arg::Ptr(slice_addr(&d_k)),               // bf16* d_k
            Arg::Ptr(slice_addr(&d_v)),               // bf16* d_v
            Arg::Ptr(lists.addr(lists.plan.keys)),    // const KeyTile* tiles
            Arg::Ptr(lists.addr(lists.plan.entries)), // const KeyEntry* entries
            n_heads,                                  // int n_heads
            n_kv_heads,                               // int n_kv_heads
            dim,                                      // int dim
            scale,                                    // float scale
        ]);
        let shared = if kernels.room == 0 { 0 } else { tiles + stages * stage };
        if kernels.room > 0 {
            args.push(Arg::I32(stages as i32)); // int stages
        }
        let blocks = grid(lists.plan.keys.count, heads.n_kv_heads, shared)?;
        // SAFETY: `attention` checked that q, k, v and so out and lse have the layout's rows, `expect_len` d; the
        // gradients and statistics were made for them; the lists are the layout's.
        unsafe { launch(self, kernels.backward_kv, blocks, &args)? };

        let mut args = inputs.to_vec();
        args.extend([
            Arg::Ptr(slice_addr(&d_q)),                // bf16* d_q
            Arg::Ptr(lists.addr(lists.plan.backward)), // const QueryTile* tiles
            n_heads,                                   // int n_heads
            n_kv_heads,                                // int n_kv_heads
            dim,                                       // int dim
            scale,                                     // float scale
        ]);
        let shared = kernels.shared(2 * BACKWARD_ROWS + 2 * KEY_ROWS);
        let blocks = grid(lists.plan.backward.count, heads.n_heads, shared)?;
        // SAFETY: as above.
        unsafe { launch(self, kernels.backward_q, blocks, &args)? };
        Ok([d_q, d_k, d_v])
    }

    fn attention_cached(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        sequences: &mut [Cached<'_, CudaCache>],
    ) -> Result<Act<Self>, OpError> {
        let &(tokens, q_width) = q.shape();
        let out = new_act(self, tokens, q_width)?;
        Kernels::of(heads)?;
        let [mut q, mut k, mut v, mut to] = [addr(q)?, addr(k)?, addr(v)?, addr(&out)?];
        for Cached { cache, len, rows, reserve } in sequences.iter_mut().filter(|sequence| sequence.rows > 0) {
            let (len, rows, width) = (*len, *rows, heads.kv_width());
            // SAFETY: `cached_attention_batch` checked that q, k and v have the rows of all sequences, this one's next,
            // and that the cache holds `len` rows of k's width.
            unsafe {
                cache.make_room(self, len, rows, width, *reserve)?;
                cache.append(self, [k, v], len, rows, width)?;
            }
            let [cache_k, cache_v] = cache.addresses();
            let (list, tiles) = Plan::cached(len, rows)?;
            let list = upload(self, &list)?;
            // SAFETY: the cache has `len + rows` rows now; the tiles cover the sequence's rows of q and see the cache's.
            unsafe { forward(self, [q, cache_k, cache_v, to, 0], heads, slice_addr(&list), tiles.count)? };
            let bytes = |width: usize| (rows * width * size_of::<Bf16>()) as u64;
            (q, to) = (q + bytes(q_width), to + bytes(q_width));
            (k, v) = (k + bytes(width), v + bytes(width));
        }
        Ok(out)
    }

    fn attention_decode(
        &self,
        q: &Act<Self>,
        k: &Act<Self>,
        v: &Act<Self>,
        heads: Heads,
        sequences: &mut [Cached<'_, CudaCache>],
        table: &mut CudaTable,
    ) -> Result<Act<Self>, OpError> {
        if !heads.head_dim.is_multiple_of(8) {
            // No kernel of its own: the plain one, a sequence at a time.
            return self.attention_cached(q, k, v, heads, sequences);
        }
        Kernels::of(heads)?; // refuses heads that are too wide
        decode(self, q, k, v, heads, sequences, table)
    }
}
