//! Numbers between the host and a device, always as `Vec<f32>` in row order. Unaware of what they mean.

use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::{CopySlice, Tensor};

use crate::OpError;
use crate::backend::{Act, Backend, Matrix, Memory, Transfer, Vector, Weight};

fn elem_from<B: Backend>(dev: &B, values: Vec<f32>, rows: usize, cols: usize) -> Result<Act<B>, OpError> {
    check("tensor from vec", values.len(), rows, cols)?;
    Transfer::<B::Elem>::tensor_from(dev, B::elems_from_f32(values), (rows, cols))
}

fn check(op: &'static str, len: usize, rows: usize, cols: usize) -> Result<(), OpError> {
    if rows.checked_mul(cols) == Some(len) {
        Ok(())
    } else {
        Err(OpError::shape(op, ("values", [len]), ("shape", [rows, cols])))
    }
}

/// Activations `[rows, width]` from host values, rounded to the device's dtype.
pub fn act_from_vec<B: Backend>(dev: &B, values: Vec<f32>, rows: usize, width: usize) -> Result<Act<B>, OpError> {
    elem_from(dev, values, rows, width)
}

/// A big weight `[out, inputs]` from host values, rounded to the device's dtype.
pub fn weight_from_vec<B: Backend>(dev: &B, values: Vec<f32>, out: usize, inputs: usize) -> Result<Weight<B>, OpError> {
    elem_from(dev, values, out, inputs)
}

/// An f32 matrix `[rows, cols]` from host values.
pub fn matrix_from_vec<B: Backend>(dev: &B, values: Vec<f32>, rows: usize, cols: usize) -> Result<Matrix<B>, OpError> {
    check("tensor from vec", values.len(), rows, cols)?;
    Transfer::<f32>::tensor_from(dev, values, (rows, cols))
}

/// An f32 vector from host values.
pub fn vector_from_vec<B: Backend>(dev: &B, values: Vec<f32>) -> Result<Vector<B>, OpError> {
    let len = values.len();
    Transfer::<f32>::tensor_from(dev, values, (len,))
}

fn elements<B: Memory, S: Shape, T>(tensor: &Tensor<S, B::Elem, B, T>) -> Vec<f32> {
    let mut values = vec![B::Elem::default(); tensor.shape().num_elements()];
    <B as CopySlice<B::Elem>>::copy_into(tensor, &mut values);
    B::elems_to_f32(values)
}

fn floats<B: Memory, S: Shape>(tensor: &Tensor<S, f32, B>) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape().num_elements()];
    <B as CopySlice<f32>>::copy_into(tensor, &mut values);
    values
}

/// An activation's values, exactly, row after row. The tensor must be contiguous, as every op's output is.
pub fn act_to_vec<B: Backend, T>(x: &Act<B, T>) -> Vec<f32> {
    elements(x)
}

/// A big weight's values, exactly.
pub fn weight_to_vec<B: Backend>(weight: &Weight<B>) -> Vec<f32> {
    elements(weight)
}

/// A matrix's values.
pub fn matrix_to_vec<B: Backend>(matrix: &Matrix<B>) -> Vec<f32> {
    floats(matrix)
}

/// A vector's values.
pub fn vector_to_vec<B: Backend>(vector: &Vector<B>) -> Vec<f32> {
    floats(vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_every_device;

    fn check_round_trip<B: Backend>(dev: B) {
        let values = vec![1.0, -2.5, 0.0, 3.0, 1e-20, 7e9];
        let matrix = matrix_from_vec(&dev, values.clone(), 2, 3).unwrap();
        assert_eq!(matrix_to_vec::<B>(&matrix), values);
        let vector = vector_from_vec(&dev, values.clone()).unwrap();
        assert_eq!(vector_to_vec::<B>(&vector), values);
        let weight = weight_from_vec(&dev, vec![1.0, -2.5, 0.0, 3.0], 2, 2).unwrap();
        assert_eq!(weight_to_vec::<B>(&weight), [1.0, -2.5, 0.0, 3.0]);
        let error = act_from_vec(&dev, values, 2, 4).unwrap_err();
        assert_eq!(error.to_string(), "tensor from vec: values [6] does not fit shape [2, 4]");
    }

    #[test]
    fn values_survive_the_device() {
        on_every_device!(check_round_trip);
    }
}
