//! When to hand work to other threads, and how it is cut: by size and shape only, so that results never depend on the
//! number of threads. All work runs in rayon's current pool. Unaware of tensors.

use rayon::prelude::*;

/// Elements of light work (a few operations each) below which handing over costs more than it saves.
pub(crate) const LIGHT: usize = 64 * 1024;

/// Threads in rayon's current pool.
pub fn count() -> usize {
    rayon::current_num_threads()
}

/// How many threads a matrix product may use: those of rayon's current pool.
pub fn gemm_parallelism() -> gemm::Parallelism {
    match count() {
        1 => gemm::Parallelism::None,
        n => gemm::Parallelism::Rayon(n),
    }
}

/// Calls `f(first_row, rows)` on pieces of `data` that hold whole rows of `width`, on all threads if `data` is large.
/// `f` must treat rows independently, since where the pieces begin depends on the number of threads.
pub(crate) fn for_rows<E: Send>(data: &mut [E], width: usize, f: impl Fn(usize, &mut [E]) + Sync) {
    if data.is_empty() || width == 0 {
        return;
    }
    let threads = count();
    if threads == 1 || data.len() < LIGHT {
        return f(0, data);
    }
    let rows = data.len() / width;
    let each = rows.div_ceil(threads);
    data.par_chunks_mut(each * width).enumerate().for_each(|(i, piece)| f(i * each, piece));
}
