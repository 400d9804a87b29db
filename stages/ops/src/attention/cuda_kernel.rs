//! Attention on CUDA: sizes the grids of the kernels for a head size and launches them. Unaware of what they compute.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;
use dfdx::tensor::Storage;

use super::cuda_cache::CudaCache;
use super::cuda_choice::Kernels;
use super::cuda_decode::{CudaTable, decode};
use super::plan::{List, Plan};
use super::{AttentionKernel, Cached, Heads, Layout, Saved};
use crate::OpError;
use crate::backend::{Act, Buffer, Vector};
use crate::cpu::memory::expect_len;
use crate::cuda::{
    Arg, Bf16, Grid, Slice, addr, launch, new_act, new_vector, scratch, shared_limit, slice_addr, upload,
};

const OP: &str = "attention";

/// Threads of a block of the statistics.
const THREADS: usize = 128;

/// A launch of `blocks * each` blocks.
fn grid(blocks: usize, each: usize, threads: usize, shared_bytes: usize) -> Result<Grid, OpError> {
    let all = blocks.checked_mul(each).and_then(|n| i32::try_from(n).ok());
    let all = all.ok_or_else(|| OpError::argument(OP, format!("{blocks} tiles of {each} heads are too many")))?;
    Ok(Grid { blocks: (all as u32, 1, 1), threads: threads as u32, shared_bytes: shared_bytes as u32 })
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
    let kernels = Kernels::of(dev, heads)?;
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
    let grid = grid(count, heads.n_heads, kernels.threads(), kernels.forward_shared())?;
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
    let grid = grid(pairs.div_ceil(THREADS / lanes), 1, THREADS, 0)?;
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
        let (kernels, lists) = (Kernels::of(self, heads)?, Lists::of(self, layout)?);
        let tiles = if kernels.hopper { lists.plan.tall } else { lists.plan.low };
        let stats = statistics(self, saved, d, heads)?;
        let [n_heads, n_kv_heads, dim, scale] = sizes(heads);
        let inputs = [
            Arg::Ptr(addr(&saved.q)?),    // const bf16* q
            Arg::Ptr(addr(&saved.k)?),    // const bf16* k
            Arg::Ptr(addr(&saved.v)?),    // const bf16* v
            Arg::Ptr(slice_addr(d)),      // const bf16* d
            Arg::Ptr(slice_addr(&stats)), // const float2* stats
        ];

        let mut args = inputs.to_vec();
        args.extend([
            Arg::Ptr(slice_addr(&d_k)),          // bf16* d_k
            Arg::Ptr(slice_addr(&d_v)),          // bf16* d_v
            Arg::Ptr(lists.addr(tiles.keys)),    // const KeyTile* tiles
            Arg::Ptr(lists.addr(tiles.entries)), // const KeyEntry* entries
            n_heads,                             // int n_heads
            n_kv_heads,                          // int n_kv_heads
            dim,                                 // int dim
            scale,                               // float scale
        ]);
        let (shared, stages) = kernels.backward_kv_shared(shared_limit(self) as usize);
        args.extend(stages.map(Arg::I32)); // int stages
        let blocks = grid(tiles.keys.count, heads.n_kv_heads, kernels.threads(), shared)?;
        // SAFETY: `attention` checked that q, k, v and so out and lse have the layout's rows, `expect_len` d; the
        // gradients and statistics were made for them; the lists are the layout's.
        unsafe { launch(self, kernels.backward_kv, blocks, &args)? };

        let mut args = inputs.to_vec();
        args.extend([
            Arg::Ptr(slice_addr(&d_q)),          // bf16* d_q
            Arg::Ptr(lists.addr(tiles.queries)), // const QueryTile* tiles
            n_heads,                             // int n_heads
            n_kv_heads,                          // int n_kv_heads
            dim,                                 // int dim
            scale,                               // float scale
        ]);
        let blocks = grid(tiles.queries.count, heads.n_heads, kernels.threads(), kernels.backward_q_shared())?;
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
        Kernels::of(self, heads)?;
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
        Kernels::of(self, heads)?; // refuses heads that are too wide
        decode(self, q, k, v, heads, sequences, table)
    }
}
