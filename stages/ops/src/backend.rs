//! What a device must be able to do: the trait `Backend`, the tensor types built on it, and the choice by name.
//!
//! A backend is a dfdx device plus one kernel trait for each op of this crate. The crate `stages` is generic over it
//! and never names a device. Unaware of models, files and training.

use dfdx::dtypes::Unit;
use dfdx::prelude::{Cpu, NoneTape, Tensor};
use dfdx::shapes::Shape;
use dfdx::tensor::{CopySlice, Storage, TensorFromVec, ZerosTensor};

use crate::OpError;
use crate::adamw::AdamwKernel;
use crate::add::AddKernel;
use crate::argmax::ArgmaxKernel;
use crate::attention::AttentionKernel;
use crate::cpu::allocator::keep_freed_memory;
use crate::cross_entropy::CrossEntropyKernel;
use crate::decoder::DecoderKernel;
use crate::embedding::EmbeddingKernel;
use crate::grad_norm::GradNormKernel;
use crate::linear::LinearKernel;
use crate::rms_norm::RmsNormKernel;
use crate::rope::RopeKernel;
use crate::swiglu::SwigluKernel;

/// Activations `[tokens, width]`: sequences packed one after the other, no batch dimension, no padding.
pub type Act<B, T = NoneTape> = Tensor<(usize, usize), <B as Memory>::Elem, B, T>;
/// A big weight `[out, in]`, in the dtype of activations.
pub type Weight<B> = Tensor<(usize, usize), <B as Memory>::Elem, B>;
/// A small f32 matrix: LoRA's A `[r, in]` or B `[out, r]`.
pub type Matrix<B> = Tensor<(usize, usize), f32, B>;
/// An f32 vector: a norm's weight, a bias, optimizer moments.
pub type Vector<B> = Tensor<(usize,), f32, B>;
/// Storage behind an activation, a big weight or one of their gradients.
pub type Buffer<B> = <B as Storage<<B as Memory>::Elem>>::Vec;
/// Storage behind an f32 parameter or its gradient.
pub type ParamBuffer<B> = <B as Storage<f32>>::Vec;

/// Moves the elements of whole tensors between the host and a device. dfdx's own ways unwrap, and keep a host copy of
/// what they upload to a GPU.
pub trait Transfer<E: Unit>: Storage<E> {
    /// A tensor of as many host values as `shape` has elements.
    fn tensor_from<S: Shape>(&self, values: Vec<E>, shape: S) -> Result<Tensor<S, E, Self>, OpError>;
    /// Overwrites the tensor with as many values. Drop what shares its storage first (a tape): a shared one is copied on
    /// the CPU, and changes for all on a GPU.
    fn tensor_write<S: Shape>(&self, tensor: &mut Tensor<S, E, Self>, values: &[E]) -> Result<(), OpError>;
    /// The values of a contiguous tensor.
    fn tensor_read<S: Shape, T>(&self, tensor: &Tensor<S, E, Self, T>) -> Result<Vec<E>, OpError>;
}

/// Bytes of device memory that tensors, gradients and scratch take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Now.
    pub current: usize,
    /// The most at any time since the device was opened or [`Memory::reset_peak`].
    pub peak: usize,
}

/// A dfdx device with a dtype for activations, and the few doors that generic code needs to its memory.
pub trait Memory:
    Transfer<f32>
    + Transfer<<Self as Memory>::Elem>
    + Storage<f32>
    + Storage<<Self as Memory>::Elem>
    + ZerosTensor<f32>
    + ZerosTensor<<Self as Memory>::Elem>
    + CopySlice<f32>
    + CopySlice<<Self as Memory>::Elem>
    + TensorFromVec<f32>
    + TensorFromVec<<Self as Memory>::Elem>
{
    /// Dtype of activations and big weights: f32 on the CPU, bf16 on CUDA.
    type Elem: Unit + Send + Sync;
    /// Class of numerics, e.g. `cpu-f32`: two runs in one class agree bit for bit on the same hardware.
    const NUMERICS: &'static str;

    /// Host conversion to `Elem`, rounding to nearest even. Where `Elem` is f32 the vector is moved through.
    fn elems_from_f32(values: Vec<f32>) -> Vec<Self::Elem>;
    /// Host conversion from `Elem`; exact.
    fn elems_to_f32(values: Vec<Self::Elem>) -> Vec<f32>;
    /// A big weight `[rows, cols]` from bf16 bytes as files hold them, little-endian, without a detour through f32; `None`
    /// where `Elem` is not bf16.
    fn weight_from_bf16(&self, bytes: &[u8], rows: usize, cols: usize) -> Result<Option<Weight<Self>>, OpError> {
        let _ = (bytes, rows, cols);
        Ok(None)
    }
    /// The inverse of [`Memory::weight_from_bf16`].
    fn weight_to_bf16(&self, weight: &Weight<Self>) -> Result<Option<Vec<u8>>, OpError> {
        let _ = weight;
        Ok(None)
    }
    /// Takes a gradient out of its slot and leaves nothing behind, so that its memory is free when the taker is done.
    fn take(&self, slot: &mut Buffer<Self>) -> Result<Buffer<Self>, OpError>;
    /// Overwrites a buffer of `Elem` with as many host values.
    fn write_buffer(&self, buffer: &mut Buffer<Self>, values: &[f32]) -> Result<(), OpError>;
    /// Overwrites an f32 buffer with as many host values.
    fn write_params(&self, buffer: &mut ParamBuffer<Self>, values: &[f32]) -> Result<(), OpError>;
    /// Runs `allocate` without the clearing of what it allocates, where the device can leave that out, and tells whether
    /// something was left out: then the memory holds anything, and the caller writes all of it before it is read.
    fn unwritten<R>(&self, allocate: impl FnOnce() -> R) -> (R, bool) {
        (allocate(), false)
    }
    /// Reads a buffer of `Elem` into host memory.
    fn read_buffer(&self, buffer: &Buffer<Self>) -> Result<Vec<f32>, OpError>;
    /// Reads an f32 buffer into host memory.
    fn read_params(&self, buffer: &ParamBuffer<Self>) -> Result<Vec<f32>, OpError>;
    /// Waits until the device has done everything it was given.
    fn synchronize(&self) -> Result<(), OpError>;
    /// Memory in use and its peak, if the device counts them (the CPU does not: its memory is the process's).
    fn memory_use(&self) -> Result<Option<MemoryUse>, OpError> {
        Ok(None)
    }
    /// Starts a new peak from what is in use now.
    fn reset_peak(&self) -> Result<(), OpError> {
        Ok(())
    }
    /// From now on this process may have at most so many bytes of the device's memory in use; what asks for more is told
    /// that there is none. A device whose memory is the host's leaves that to the system.
    fn limit_memory(&self, bytes: usize) {
        let _ = bytes;
    }
    /// Bytes that could still be allocated, if the device tells: on the CPU what the system could hand out, swap
    /// included. Others may take them at any time.
    fn memory_available(&self) -> Option<usize>;
    /// Bytes of the device's memory that this process has not taken for tensors and that are not free either: other
    /// processes', and a few hundred MiB for contexts and kernels. `None` where the device does not count.
    fn memory_elsewhere(&self) -> Option<usize> {
        None
    }
    /// Bytes of memory that the device has, or that this process may take of it, if it tells.
    fn memory_total(&self) -> Option<usize>;
    /// What its maker calls it, if it tells.
    fn device_name(&self) -> Option<String>;
}

/// A device with a kernel for every op of this crate.
pub trait Backend:
    Memory
    + AddKernel
    + AdamwKernel
    + ArgmaxKernel
    + AttentionKernel
    + CrossEntropyKernel
    + DecoderKernel
    + EmbeddingKernel
    + GradNormKernel
    + LinearKernel
    + RmsNormKernel
    + RopeKernel
    + SwigluKernel
{
}

impl Backend for Cpu {}
#[cfg(feature = "cuda")]
impl Backend for dfdx::prelude::Cuda {}

/// Work that runs on whichever backend a name stands for.
pub trait BackendVisitor {
    /// What the work returns.
    type Out;
    /// Runs on `device`.
    fn visit<B: Backend>(self, device: B) -> Self::Out;
    /// Runs on a `device` whose tensors several threads may use at once: the CPU.
    fn visit_threads<B: Backend + Send + Sync>(self, device: B) -> Self::Out
    where
        Self: Sized,
    {
        self.visit(device)
    }
}

/// Names that [`with_backend`] knows in this build.
pub fn backend_names() -> &'static [&'static str] {
    if cfg!(feature = "cuda") { &["cpu-f32", "cuda-bf16"] } else { &["cpu-f32"] }
}

/// Opens the backend called `name` and runs `visitor` on it. Any other name is an error that lists those there are.
///
/// Opening the CPU also tells the process's allocator to keep freed buffers for the next step. `cuda-bf16` is the first
/// GPU that the process sees; without a GPU, its driver or libraries the error says what is missing.
pub fn with_backend<V: BackendVisitor>(name: &str, visitor: V) -> Result<V::Out, OpError> {
    match name {
        "cpu-f32" => {
            keep_freed_memory();
            Ok(visitor.visit_threads(Cpu::default()))
        }
        #[cfg(feature = "cuda")]
        "cuda-bf16" => Ok(visitor.visit(crate::cuda::open()?)),
        _ => Err(OpError::UnknownBackend { name: name.to_string(), available: backend_names().join(", ") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Numerics;
    impl BackendVisitor for Numerics {
        type Out = &'static str;
        fn visit<B: Backend>(self, _: B) -> &'static str {
            B::NUMERICS
        }
    }

    #[test]
    fn a_name_opens_a_backend_and_an_unknown_one_lists_them() {
        assert_eq!(with_backend("cpu-f32", Numerics).unwrap(), "cpu-f32");
        let error = with_backend("tpu", Numerics).unwrap_err();
        assert_eq!(error.to_string(), format!("unknown backend `tpu`; this build has: {}", backend_names().join(", ")));
        assert_eq!(backend_names()[0], "cpu-f32");
    }
}
