//! CUDA as a `Memory`: bf16 activations, f32 parameters, one pool. Unaware of ops.

use std::ffi::CStr;

use cudarc::driver::{DevicePtr, DeviceRepr, DeviceSlice, DriverError, sys};
use dfdx::dtypes::Unit;
use dfdx::prelude::Cuda;
use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::{CudaError, Storage, Tensor, ZerosTensor};

use super::context::{ask, context};
use super::door::{addr, slice_addr};
use super::unwritten::unwritten;
use super::{Bf16, Slice, limit, staging};
use crate::OpError;
use crate::backend::{Act, Buffer, Memory, MemoryUse, ParamBuffer, Transfer, Vector, Weight};
use crate::cpu::memory::expect_len;

fn bytes_of<T>(len: usize) -> usize {
    len.saturating_mul(size_of::<T>())
}

fn no_memory(error: &DriverError) -> bool {
    error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// Runs an allocation of `bytes`; if it fails for lack of memory, once more after the pool gave back what it kept.
fn allocate<T>(bytes: usize, mut attempt: impl FnMut() -> Result<T, DriverError>) -> Result<T, OpError> {
    let failed = match attempt() {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    if !no_memory(&failed) {
        return Err(OpError::Device { message: super::describe(failed.0) });
    }
    let context = context()?;
    context.device.synchronize().map_err(OpError::driver)?;
    // SAFETY: the context's own pool.
    ask("trimming the memory pool", unsafe { sys::cuMemPoolTrimTo(context.pool, 0) })?;
    attempt().map_err(|error| {
        if no_memory(&error) { OpError::OutOfMemory { bytes: Some(bytes) } } else { OpError::driver(error) }
    })
}

/// As [`allocate`], for what dfdx allocates; not cleared.
fn tensor<S: Shape, E: Unit>(dev: &Cuda, shape: S) -> Result<Tensor<S, E, Cuda>, OpError> {
    allocate(bytes_of::<E>(shape.num_elements()), || match unwritten(|| dev.try_zeros_like(&shape)).0 {
        Ok(tensor) => Ok(tensor),
        Err(CudaError::Driver(error)) => Err(error),
        Err(_) => Err(DriverError(sys::CUresult::CUDA_ERROR_UNKNOWN)),
    })
}

/// A fresh activation for an output, holding anything: kernels write every element.
pub(crate) fn new_act(dev: &Cuda, rows: usize, width: usize) -> Result<Act<Cuda>, OpError> {
    tensor(dev, (rows, width))
}

/// A fresh f32 vector; as [`new_act`].
pub(crate) fn new_vector(dev: &Cuda, len: usize) -> Result<Vector<Cuda>, OpError> {
    tensor(dev, (len,))
}

/// Uninitialised device memory, freed in stream order when dropped.
pub(crate) fn scratch<T: DeviceRepr>(_: &Cuda, len: usize) -> Result<Slice<T>, OpError> {
    let device = &context()?.device;
    // SAFETY: whoever asks for scratch writes it before reading it.
    allocate(bytes_of::<T>(len), || unsafe { device.alloc::<T>(len) })
}

/// Copies host values to `to`. They may be changed right after the call.
fn send<T>(values: &[T], to: u64) -> Result<(), OpError> {
    if values.is_empty() {
        return Ok(());
    }
    if size_of_val(values) >= staging::LARGE {
        // SAFETY: `values` are as many bytes of plain numbers; callers pass the address of an allocation of at least as
        // many.
        return unsafe { staging::send(std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)), to) };
    }
    let context = context()?;
    // SAFETY: callers pass the address of an allocation of at least as many bytes. From pageable host memory the driver
    // takes its own copy before it returns.
    let code = unsafe {
        sys::cuMemcpyHtoDAsync_v2(to, values.as_ptr().cast(), size_of_val(values), *context.device.cu_stream())
    };
    ask("copying to the GPU", code)
}

/// Copies `len` values at `from` to the host, after all work given to the device so far.
fn fetch<T: Clone + Default>(from: u64, len: usize) -> Result<Vec<T>, OpError> {
    let mut values = vec![T::default(); len];
    let context = context()?;
    if len > 0 {
        let (to, bytes) = (values.as_mut_ptr().cast(), bytes_of::<T>(len));
        // SAFETY: `values` has that many bytes and lives until the synchronisation below; callers pass the address of
        // an allocation of as many.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes, *context.device.cu_stream()) };
        ask("copying from the GPU", code)?;
    }
    context.device.synchronize().map_err(OpError::driver)?;
    Ok(values)
}

/// A host array on the device.
pub(crate) fn upload<T: DeviceRepr + Clone + Unpin>(dev: &Cuda, values: &[T]) -> Result<Slice<T>, OpError> {
    let slice = scratch(dev, values.len())?;
    send(values, slice_addr(&slice))?;
    Ok(slice)
}

/// A device array on the host, after all work given to the device so far.
pub(crate) fn download<T: DeviceRepr + Clone + Default>(_: &Cuda, slice: &Slice<T>) -> Result<Vec<T>, OpError> {
    fetch(slice_addr(slice), slice.len())
}

/// Sets `bytes` bytes at `to` to zero, in stream order.
pub(super) fn clear(to: u64, bytes: usize) -> Result<(), OpError> {
    if bytes == 0 {
        return Ok(());
    }
    let context = context()?;
    // SAFETY: callers pass the address of an allocation of at least as many bytes.
    ask("clearing memory", unsafe { sys::cuMemsetD8Async(to, 0, bytes, *context.device.cu_stream()) })
}

impl<E: Unit> Transfer<E> for Cuda {
    fn tensor_from<S: Shape>(&self, values: Vec<E>, shape: S) -> Result<Tensor<S, E, Self>, OpError> {
        expect_len("tensor from vec", values.len(), shape.num_elements())?;
        // dfdx's own way keeps the host's copy for as long as the tensor lives.
        let tensor = tensor(self, shape)?;
        send(&values, addr(&tensor)?)?;
        Ok(tensor)
    }

    fn tensor_write<S: Shape>(&self, tensor: &mut Tensor<S, E, Self>, values: &[E]) -> Result<(), OpError> {
        expect_len("write", values.len(), tensor.shape().num_elements())?;
        send(values, addr(tensor)?)
    }

    fn tensor_read<S: Shape, T>(&self, tensor: &Tensor<S, E, Self, T>) -> Result<Vec<E>, OpError> {
        fetch(addr(&tensor.retaped::<dfdx::prelude::NoneTape>())?, tensor.shape().num_elements())
    }
}

/// Reads one of the pool's counters.
pub(super) fn counter(which: sys::CUmemPool_attribute) -> Result<usize, OpError> {
    let mut value = 0u64;
    ask("reading the memory pool", read_counter(context()?.pool, which, &mut value))?;
    Ok(value as usize)
}

/// The same, in the driver's terms.
pub(super) fn read_counter(pool: sys::CUmemoryPool, which: sys::CUmemPool_attribute, to: &mut u64) -> sys::CUresult {
    // SAFETY: these attributes are u64, which `to` is.
    unsafe { sys::cuMemPoolGetAttribute(pool, which, (&raw mut *to).cast()) }
}

impl Memory for Cuda {
    type Elem = Bf16;
    const NUMERICS: &'static str = "cuda-bf16";

    fn elems_from_f32(values: Vec<f32>) -> Vec<Bf16> {
        values.into_iter().map(Bf16::from_f32).collect()
    }

    fn elems_to_f32(values: Vec<Bf16>) -> Vec<f32> {
        values.into_iter().map(Bf16::to_f32).collect()
    }

    fn weight_from_bf16(&self, bytes: &[u8], rows: usize, cols: usize) -> Result<Option<Weight<Self>>, OpError> {
        expect_len("weight", bytes.len(), bytes_of::<Bf16>(rows.saturating_mul(cols)))?;
        let weight = tensor(self, (rows, cols))?;
        send(bytes, addr(&weight)?)?;
        Ok(Some(weight))
    }

    fn weight_to_bf16(&self, weight: &Weight<Self>) -> Result<Option<Vec<u8>>, OpError> {
        fetch(addr(weight)?, bytes_of::<Bf16>(weight.shape().num_elements())).map(Some)
    }

    fn take(&self, slot: &mut Buffer<Self>) -> Result<Buffer<Self>, OpError> {
        let empty = Storage::<Bf16>::try_alloc_len(self, 0).map_err(OpError::device)?;
        Ok(std::mem::replace(slot, empty))
    }

    fn unwritten<R>(&self, allocate: impl FnOnce() -> R) -> (R, bool) {
        unwritten(allocate)
    }

    fn write_buffer(&self, buffer: &mut Buffer<Self>, values: &[f32]) -> Result<(), OpError> {
        expect_len("write", buffer.len(), values.len())?;
        send(&Self::elems_from_f32(values.to_vec()), *buffer.device_ptr())
    }

    fn write_params(&self, buffer: &mut ParamBuffer<Self>, values: &[f32]) -> Result<(), OpError> {
        expect_len("write", buffer.len(), values.len())?;
        send(values, *buffer.device_ptr())
    }

    fn read_buffer(&self, buffer: &Buffer<Self>) -> Result<Vec<f32>, OpError> {
        Ok(Self::elems_to_f32(download(self, buffer)?))
    }

    fn read_params(&self, buffer: &ParamBuffer<Self>) -> Result<Vec<f32>, OpError> {
        download(self, buffer)
    }

    fn synchronize(&self) -> Result<(), OpError> {
        context()?.device.synchronize().map_err(OpError::driver)
    }

    fn memory_use(&self) -> Result<Option<MemoryUse>, OpError> {
        let current = counter(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        let peak = counter(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?;
        Ok(Some(MemoryUse { current, peak }))
    }

    fn reset_peak(&self) -> Result<(), OpError> {
        let (mut zero, which) = (0u64, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH);
        // SAFETY: the attribute is a u64, which `zero` is; the driver takes zero only, as "start again from now".
        let code = unsafe { sys::cuMemPoolSetAttribute(context()?.pool, which, (&raw mut zero).cast()) };
        ask("resetting the memory peak", code)
    }

    fn memory_available(&self) -> Option<usize> {
        let (free, _) = info()?;
        // What the pool keeps of freed memory is neither free to the driver nor in use.
        let reserved = counter(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).ok()?;
        let used = counter(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).ok()?;
        let available = free + reserved.saturating_sub(used);
        Some(limit::get().map_or(available, |limit| available.min(limit.saturating_sub(used))))
    }

    fn memory_elsewhere(&self) -> Option<usize> {
        let (free, total) = info()?;
        let reserved = counter(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).ok()?;
        Some(total.saturating_sub(free).saturating_sub(reserved))
    }

    fn limit_memory(&self, bytes: usize) {
        limit::set(bytes);
    }

    fn memory_total(&self) -> Option<usize> {
        info().map(|(_, total)| limit::get().map_or(total, |limit| total.min(limit)))
    }

    fn device_name(&self) -> Option<String> {
        let mut name = [0u8; 256];
        let device = *context().ok()?.device.cu_device();
        // SAFETY: the buffer is longer than the length given; the driver ends the name with a zero.
        let code = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 255, device) };
        ask("reading the GPU's name", code).ok()?;
        Some(CStr::from_bytes_until_nul(&name).ok()?.to_string_lossy().into_owned())
    }
}

/// Bytes that the driver has free, and all.
fn info() -> Option<(usize, usize)> {
    context().ok()?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: both may be written; the context is bound to this thread.
    ask("reading the GPU's memory", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }).ok()?;
    Some((free, total))
}
