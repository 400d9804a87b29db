//! The CPU as a `Memory`: f32 throughout, gradients are vectors on the heap. Unaware of ops.

use dfdx::dtypes::Unit;
use dfdx::prelude::{Cpu, Tensor, TensorFromVec};
use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::Storage;

use crate::OpError;
use crate::backend::{Buffer, Memory, ParamBuffer, Transfer};

/// Wraps a vector as dfdx storage without copying it.
pub(crate) fn buffer(dev: &Cpu, values: Vec<f32>) -> Result<Buffer<Cpu>, OpError> {
    let mut storage = Storage::<f32>::try_alloc_len(dev, 0).map_err(OpError::device)?;
    *storage = values;
    Ok(storage)
}

/// Fails unless a gradient slot has the length that its tensor has.
pub(crate) fn expect_len(op: &'static str, len: usize, want: usize) -> Result<(), OpError> {
    if len == want { Ok(()) } else { Err(OpError::shape(op, ("buffer", [len]), ("tensor", [want]))) }
}

impl<E: Unit> Transfer<E> for Cpu {
    fn tensor_from<S: Shape>(&self, values: Vec<E>, shape: S) -> Result<Tensor<S, E, Self>, OpError> {
        self.try_tensor_from_vec(values, shape).map_err(OpError::device)
    }

    fn tensor_write<S: Shape>(&self, tensor: &mut Tensor<S, E, Self>, values: &[E]) -> Result<(), OpError> {
        expect_len("write", values.len(), tensor.shape().num_elements())?;
        tensor.copy_from(values);
        Ok(())
    }

    fn tensor_read<S: Shape, T>(&self, tensor: &Tensor<S, E, Self, T>) -> Result<Vec<E>, OpError> {
        let mut values = vec![E::default(); tensor.shape().num_elements()];
        tensor.copy_into(&mut values);
        Ok(values)
    }
}

impl Memory for Cpu {
    type Elem = f32;
    const NUMERICS: &'static str = "cpu-f32";

    fn elems_from_f32(values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn elems_to_f32(values: Vec<f32>) -> Vec<f32> {
        values
    }

    fn take(&self, slot: &mut Buffer<Self>) -> Result<Buffer<Self>, OpError> {
        buffer(self, std::mem::take(&mut **slot))
    }

    fn write_buffer(&self, buffer: &mut Buffer<Self>, values: &[f32]) -> Result<(), OpError> {
        expect_len("write", buffer.len(), values.len())?;
        buffer.copy_from_slice(values);
        Ok(())
    }

    fn write_params(&self, buffer: &mut ParamBuffer<Self>, values: &[f32]) -> Result<(), OpError> {
        self.write_buffer(buffer, values)
    }

    fn read_buffer(&self, buffer: &Buffer<Self>) -> Result<Vec<f32>, OpError> {
        Ok(buffer.to_vec())
    }

    fn read_params(&self, buffer: &ParamBuffer<Self>) -> Result<Vec<f32>, OpError> {
        Ok(buffer.to_vec())
    }

    fn synchronize(&self) -> Result<(), OpError> {
        Ok(())
    }

    fn memory_available(&self) -> Option<usize> {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        Some(meminfo(&text, "MemAvailable:")? + meminfo(&text, "SwapFree:").unwrap_or(0))
    }

    fn memory_total(&self) -> Option<usize> {
        meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
    }

    fn device_name(&self) -> Option<String> {
        None
    }
}

/// A field of Linux's `/proc/meminfo`, which counts in KiB, in bytes.
fn meminfo(text: &str, field: &str) -> Option<usize> {
    let words = text.lines().map(str::split_whitespace);
    let mut words = words.into_iter().find_map(|mut words| (words.next() == Some(field)).then_some(words))?;
    words.next()?.parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_host_is_told_in_bytes() {
        let text = "MemTotal:   8000 kB\nMemFree: 1 kB\nMemAvailable:\t 2000 kB\nSwapFree: x kB\n";
        assert_eq!((meminfo(text, "MemAvailable:"), meminfo(text, "SwapFree:")), (Some(2_048_000), None));
        let dev = Cpu::default();
        let (free, total) = (dev.memory_available().unwrap(), dev.memory_total().unwrap());
        assert!(free > 1 << 20 && total > 64 << 20, "{free} of {total}");
        assert_eq!(dev.memory_use().unwrap(), None);
    }
}
