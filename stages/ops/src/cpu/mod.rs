//! What the CPU kernels share: slices of dfdx tensors, vector loops for the instruction set at hand, threads, gemm.
//!
//! Everything here works on plain f32 slices. Unaware of tapes and of what the numbers mean.

pub(crate) mod allocator;
pub(crate) mod build;
pub(crate) mod gemm;
pub(crate) mod lanes;
pub(crate) mod memory;
pub(crate) mod simd;
pub(crate) mod slice;
pub(crate) mod threads;

pub use threads::{count as thread_count, gemm_parallelism};
