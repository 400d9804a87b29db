//! Operations on dfdx tensors: hand-written forward and backward, one folder an op, behind one [`Backend`] trait.
//!
//! The only crate of the project with `unsafe`. Unaware of models, manifests, artifacts and training loops; it never
//! prints. Each op's `mod.rs` holds the API, the formula and the tests, `cpu_kernel.rs` the CPU's kernels, and
//! `reference` a slow twin that tests compare with.
//!
//! Conventions: activations are `[tokens, width]`, weights `[out, in]`. A backward node takes its output's gradient and
//! adds (`+=`) to those of its inputs. Results do not depend on the number of threads.

pub mod adamw;
pub mod add;
pub mod again;
pub mod argmax;
pub mod attention;
pub mod backend;
mod category;
mod cpu;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
mod cuda;
pub mod decoder;
pub mod embedding;
mod error;
pub mod grad_norm;
pub mod host;
pub mod linear;
pub mod mapped;
pub mod param;
pub mod profile;
pub mod recompute;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
pub mod tape;
#[cfg(test)]
mod testing;

pub use adamw::{AdamwHyper, AdamwPart, AdamwState, StateDtype};
pub use add::add;
pub use again::Again;
pub use argmax::{ArgmaxKernel, NextIds, argmax, argmax_rows, linear_argmax, linear_argmax_next};
pub use attention::{
    AttentionKernel, DecodeTable, Heads, LayerCache, Layout, Prefix, Segment, attention, cached_attention,
    cached_attention_batch, decode_attention,
};
pub use backend::{
    Act, Backend, BackendVisitor, Buffer, Matrix, Memory, MemoryUse, ParamBuffer, Transfer, Vector, Weight,
    backend_names, with_backend,
};
pub use category::Category;
pub use cpu::{gemm_parallelism, thread_count};
pub use cross_entropy::{LossSum, cross_entropy_workspace, linear_cross_entropy};
#[cfg(feature = "cuda")]
pub use cuda::{Bf16, bus_id as cuda_bus_id};
pub use decoder::{BlockWeights, DecoderBlock};
pub use embedding::{embedding, embedding_next};
pub use error::OpError;
pub use grad_norm::{grad_norm, scale_grads};
pub use host::{
    act_from_vec, act_to_vec, matrix_from_vec, matrix_to_vec, vector_from_vec, vector_to_vec, weight_from_vec,
    weight_to_vec,
};
pub use linear::{Linear, Lora, linear, linear_few, linear_few_gated, linear_group, linear_onto, linear_rows};
pub use mapped::MappedFile;
pub use param::ParamRef;
pub use recompute::{Recompute, recompute};
pub use rms_norm::rms_norm;
pub use rope::{RopeTable, rope};
pub use swiglu::swiglu;
pub use tape::{Grads, OpTape, Record};

#[cfg(feature = "cuda")]
pub use dfdx::prelude::Cuda;
pub use dfdx::prelude::{Cpu, NoneTape, PutTape, SplitTape, Tape, Tensor};
pub use dfdx::shapes::HasShape;
