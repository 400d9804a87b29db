//! The greedy choice on CUDA: only ids come back to the host. Unaware of tokens.

use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::ArgmaxKernel;
use crate::OpError;
use crate::add::narrow;
use crate::backend::{Act, Weight};
use crate::cross_entropy::chunk_rows;
use crate::cuda::{Arg, Gemm, Grid, Operand, Slice, addr, download, gemm, launch, scratch, slice_addr};
use crate::linear::cuda_few::{Few, FewModule, few, fits};

const OP: &str = "argmax";

/// What the kernel writes for a row that holds a NaN.
const NAN_ID: u32 = u32::MAX;

/// Ids of `rows` rows of `width` numbers at `x`, to `ids`, and to `usable` if that is not 0.
///
/// # Safety
/// `x` is the address of `rows * width` numbers of the kernel's type, `ids` and `usable` of `rows` indices.
unsafe fn rows_of(
    dev: &Cuda,
    name: &'static str,
    (ids, usable, x): (u64, u64, u64),
    rows: usize,
    width: usize,
) -> Result<(), OpError> {
    let args = [
        Arg::Ptr(ids),                         // unsigned* ids
        Arg::Ptr(usable),                      // unsigned* usable
        Arg::Ptr(x),                           // const float* or const __nv_bfloat16* x
        Arg::U32(narrow(OP, "width", width)?), // unsigned width
    ];
    let threads = if width > 4096 { 1024 } else { 256 };
    let grid = Grid { blocks: (narrow(OP, "rows", rows)?, 1, 1), threads, shared_bytes: 0 };
    // SAFETY: the caller's contract is the kernel's.
    unsafe { launch(dev, name, grid, &args) }
}

/// Ids on the device: as found, then usable as indices.
#[derive(Debug)]
pub struct CudaIds {
    list: Slice<u32>,
    rows: usize,
    vocabulary: usize,
}

impl CudaIds {
    /// All of them are below this.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Address of ids that are all below the vocabulary they were chosen from, and their number.
    pub(crate) fn usable(&self) -> (u64, usize) {
        (slice_addr(&self.list) + 4 * self.rows as u64, self.rows)
    }
}

fn known(ids: Vec<u32>) -> Vec<Option<u32>> {
    ids.into_iter().map(|id| (id != NAN_ID).then_some(id)).collect()
}

impl ArgmaxKernel for Cuda {
    fn argmax_kernel(&self, logits: &Act<Self>) -> Result<Vec<Option<u32>>, OpError> {
        let &(rows, width) = logits.shape();
        let ids = scratch::<u32>(self, rows)?;
        // SAFETY: logits are rows * width bf16 numbers, and neither is 0; `ids` was made for the rows.
        unsafe { rows_of(self, "anneal_argmax_bf16", (slice_addr(&ids), 0, addr(logits)?), rows, width)? };
        Ok(known(download(self, &ids)?))
    }

    type Ids = CudaIds;
    /// Fewer reads would decode more behind end tokens; more of them would leave the device idle more often.
    const READ_EVERY: usize = 4;

    /// Logits of a chunk of rows exist in f32 until their largest is known; they are never rounded.
    fn linear_argmax_ids(&self, x: &Act<Self>, weight: &Weight<Self>) -> Result<CudaIds, OpError> {
        let (&(rows, width), &(vocabulary, _)) = (x.shape(), weight.shape());
        let each = chunk_rows(vocabulary, rows).min(rows);
        let found = CudaIds { list: scratch::<u32>(self, 2 * rows)?, rows, vocabulary };
        let logits = scratch::<f32>(self, each * vocabulary)?;
        for first in (0..rows).step_by(each) {
            let count = each.min(rows - first);
            let from = addr(x)? + 2 * (first * width) as u64;
            let (rows_of_x, head) = (Operand::bf16(from, width), Operand::bf16(addr(weight)?, width));
            let to = Operand::f32(slice_addr(&logits), vocabulary);
            let wide = Gemm::new([count, vocabulary, width], rows_of_x, head.t(), to);
            let modules = [FewModule::plain(head.addr, vocabulary)];
            let outs = [to.addr];
            let few_rows = Few {
                x: from,
                onto: 0,
                u: 0,
                rows: count,
                width,
                modules: &modules,
                outs: &outs,
                gated: false,
                wide: true,
                early: false,
            };
            let at = |index: usize| slice_addr(&found.list) + 4 * (index + first) as u64;
            let addresses = (at(0), at(rows), slice_addr(&logits));
            // SAFETY: rows `first..first + count` lie in x; `logits` has room for `each` rows, the list for all, twice.
            unsafe {
                // By the width, not the number of rows: a row's logits have the same bits beside any others.
                if fits(width) {
                    few(self, &few_rows)?
                } else {
                    gemm(self, &wide)?
                };
                rows_of(self, "anneal_argmax_f32", addresses, count, vocabulary)?;
            }
        }
        Ok(found)
    }

    fn read_ids(&self, ids: &CudaIds) -> Result<Vec<Option<u32>>, OpError> {
        let mut list = download(self, &ids.list)?;
        list.truncate(ids.rows);
        Ok(known(list))
    }
}
