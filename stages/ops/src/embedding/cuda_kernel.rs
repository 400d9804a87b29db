//! Rows by index on CUDA: copies of them, and sums into them without atomics. The head's loss uses both.
//!
//! Indices are checked on the host before they come here. Unaware of what they stand for.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::EmbeddingKernel;
use crate::OpError;
use crate::add::{VECTOR, narrow};
use crate::argmax::CudaIds;
use crate::backend::{Act, Buffer, Weight};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Grid, addr, launch, new_act, slice_addr, upload};

/// Blocks of a gather; more rows than that are looped over.
const GATHER_BLOCKS: usize = 1 << 16;

/// `out[i] = table[ids[i]]` for `rows` rows.
///
/// # Safety
/// `ids` is the address of `rows` indices below the table's number of rows; `out` has `rows * width` elements.
pub(crate) unsafe fn gather(
    dev: &Cuda,
    op: &'static str,
    (out, table, ids): (u64, u64, u64),
    (rows, width): (usize, usize),
) -> Result<(), OpError> {
    if rows == 0 || width == 0 {
        return Ok(());
    }
    let vectors = width.is_multiple_of(VECTOR);
    let unit = if vectors { width / VECTOR } else { width };
    let args = [
        Arg::Ptr(out),                         // __nv_bfloat16* out
        Arg::Ptr(table),                       // const __nv_bfloat16* table
        Arg::Ptr(ids),                         // const unsigned* ids
        Arg::U64(rows as u64),                 // unsigned long long rows
        Arg::U32(narrow(op, "width", width)?), // unsigned width
    ];
    let name = if vectors { "anneal_embedding_gather" } else { "anneal_embedding_gather_any" };
    let threads = unit.next_multiple_of(32).min(256) as u32;
    let grid = Grid { blocks: (rows.min(GATHER_BLOCKS) as u32, 1, 1), threads, shared_bytes: 0 };
    // SAFETY: the caller's contract is the kernel's.
    unsafe { launch(dev, name, grid, &args) }
}

/// Where sums go and what they are made of: `[ids][starts][order]` in one list, and the number of distinct ids.
///
/// `order` holds the positions of `ids` sorted by id, positions of one id in their own order.
fn runs(ids: &[u32]) -> (Vec<u32>, usize) {
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    // Stable, so that the rows of one id are added in the order in which they came.
    order.sort_by_key(|i| ids[*i as usize]);
    let starts: Vec<u32> = (0..order.len())
        .filter(|k| *k == 0 || ids[order[*k] as usize] != ids[order[*k - 1] as usize])
        .map(|k| k as u32)
        .collect();
    let mut list: Vec<u32> = starts.iter().map(|start| ids[order[*start as usize] as usize]).collect();
    let distinct = list.len();
    list.extend(&starts);
    list.push(order.len() as u32);
    list.append(&mut order);
    (list, distinct)
}

/// `table[ids[i]] += d[i]`, in the order of `i`: rows of one id are summed in f32 and added to the table once.
///
/// # Safety
/// Ids are below the number of rows of `table`, whose width is `width`; `d` has `ids.len() * width` elements.
pub(crate) unsafe fn scatter(
    dev: &Cuda,
    op: &'static str,
    (table, d): (u64, u64),
    ids: &[u32],
    width: usize,
) -> Result<(), OpError> {
    if ids.is_empty() || width == 0 {
        return Ok(());
    }
    narrow(op, "number of rows", ids.len())?;
    let (list, distinct) = runs(ids);
    let list = upload(dev, &list)?;
    let at = |index: usize| slice_addr(&list) + 4 * index as u64;
    let vectors = width.is_multiple_of(VECTOR);
    let unit = if vectors { width / VECTOR } else { width };
    let args = [
        Arg::Ptr(table),                       // __nv_bfloat16* table
        Arg::Ptr(d),                           // const __nv_bfloat16* d
        Arg::Ptr(at(0)),                       // const unsigned* ids
        Arg::Ptr(at(distinct)),                // const unsigned* starts
        Arg::Ptr(at(2 * distinct + 1)),        // const unsigned* order
        Arg::U32(narrow(op, "width", width)?), // unsigned width
    ];
    let name = if vectors { "anneal_embedding_scatter" } else { "anneal_embedding_scatter_any" };
    let threads = unit.next_multiple_of(32).min(128) as u32;
    let blocks = (distinct as u32, unit.div_ceil(128) as u32, 1);
    // SAFETY: the caller's contract is the kernel's; the lists were laid out above and outlive the launch, as they are
    // freed in stream order.
    unsafe { launch(dev, name, Grid { blocks, threads, shared_bytes: 0 }, &args) }
}

impl EmbeddingKernel for Cuda {
    fn embedding_forward(&self, ids: &[u32], weight: &Weight<Self>) -> Result<Act<Self>, OpError> {
        let width = weight.shape().1;
        let out = new_act(self, ids.len(), width)?;
        if !ids.is_empty() && width > 0 {
            let list = upload(self, ids)?;
            let addresses = (addr(&out)?, addr(weight)?, slice_addr(&list));
            // SAFETY: `embedding` checked every id against the table; `out` was made for them.
            unsafe { gather(self, "embedding", addresses, (ids.len(), width))? };
        }
        Ok(out)
    }

    fn embedding_next(&self, ids: &CudaIds, weight: &Weight<Self>) -> Result<Act<Self>, OpError> {
        let &(limit, width) = weight.shape();
        let (list, rows) = ids.usable();
        if ids.vocabulary() > limit {
            return Err(OpError::OutOfRange { op: "embedding", what: "token id", index: ids.vocabulary() - 1, limit });
        }
        let out = new_act(self, rows, width)?;
        // SAFETY: the ids are below the vocabulary that they were chosen from, which is not larger than the table;
        // `out` was made for them.
        unsafe { gather(self, "embedding", (addr(&out)?, addr(weight)?, list), (rows, width))? };
        Ok(out)
    }

    fn embedding_backward(
        &self,
        ids: &[u32],
        width: usize,
        d: &Buffer<Self>,
        d_weight: &mut Buffer<Self>,
    ) -> Result<(), OpError> {
        expect_len("embedding", d.len(), ids.len() * width)?;
        // SAFETY: the length of d was checked; `embedding` checked the ids against the table; d_weight is its gradient.
        unsafe { scatter(self, "embedding", (slice_addr(d_weight), slice_addr(d)), ids, width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_sorted_by_id_and_keep_the_order_within_one() {
        let (list, distinct) = runs(&[7, 2, 7, 0, 2, 7]);
        assert_eq!(distinct, 3);
        assert_eq!(list[..3], [0, 2, 7], "ids");
        assert_eq!(list[3..7], [0, 1, 3, 6], "starts");
        assert_eq!(list[7..], [3, 1, 4, 0, 2, 5], "order");
        assert_eq!(runs(&[5]), (vec![5, 0, 1, 0], 1));
    }
}
