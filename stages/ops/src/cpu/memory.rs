//! The CPU as a `Memory`: f32 throughout, gradients are vectors on the heap. Unaware of ops.

use dfdx::prelude::Cpu;
use dfdx::tensor::Storage;

use crate::OpError;
use crate::backend::{Buffer, Memory, ParamBuffer};

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

    fn zero_buffer(&self, buffer: &mut Buffer<Self>) -> Result<(), OpError> {
        buffer.fill(0.0);
        Ok(())
    }

    fn zero_params(&self, buffer: &mut ParamBuffer<Self>) -> Result<(), OpError> {
        buffer.fill(0.0);
        Ok(())
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
}
