//! What CUDA kernels share: the device, its memory, the door to tensors' addresses, launches, matrix products.
//!
//! One device a process: the first that `CUDA_VISIBLE_DEVICES` leaves (a rank is a process of its own). All work goes to
//! one stream, dfdx's, in the order of the calls. Unaware of ops; their `cuda_kernel.rs` and `<op>.cu` use this module.
//!
//! A failed device repeats its error in every later call. Functions here return it as [`crate::OpError`]; whoever gets
//! it should report it and leave the process without touching tensors again.

mod answers;
mod context;
mod door;
mod element;
mod gemm;
mod group;
mod launch;
mod libraries;
mod limit;
mod lt;
mod memory;
mod staging;
#[cfg(test)]
mod tests;
mod unwritten;

pub use context::bus_id;
pub(crate) use context::{describe, multiprocessors, open, shared_limit, warpgroup_products};
pub(crate) use door::{addr, slice_addr};
pub use element::Bf16;
pub(crate) use gemm::{Gemm, Operand, gemm};
pub(crate) use group::{Group, Table};
pub(crate) use launch::{Arg, Grid, launch, launch_early};
pub(crate) use memory::{download, new_act, new_vector, scratch, upload};

/// Device memory of `T`: what [`scratch`] returns, and what the buffers behind tensors and gradients deref to.
pub(crate) type Slice<T> = cudarc::driver::CudaSlice<T>;
