//! One handle for every kind of trainable parameter: its values, its gradient, both as f32 on the host.
//!
//! Unaware of names, optimizers and files.

use dfdx::shapes::{HasShape, Shape};
use dfdx::tensor::Tensor;

use crate::OpError;
use crate::backend::{Backend, Buffer, Matrix, ParamBuffer, Vector, Weight};
use crate::host;
use crate::tape::Grads;

/// A borrowed parameter. Drop the tape before writing: it shares the storage (see `Transfer::tensor_write`).
pub enum ParamRef<'a, B: Backend> {
    /// A big weight; its gradient is in [`Grads::weights`].
    Weight(&'a mut Weight<B>),
    /// An f32 matrix; its gradient is in [`Grads::params`].
    Matrix(&'a mut Matrix<B>),
    /// An f32 vector; its gradient is in [`Grads::params`].
    Vector(&'a mut Vector<B>),
}

/// A parameter's gradient.
pub(crate) enum Gradient<'g, B: Backend> {
    /// Of a big weight.
    Elems(&'g mut Buffer<B>),
    /// Of an f32 matrix or vector.
    Floats(&'g mut ParamBuffer<B>),
}

impl<B: Backend> ParamRef<'_, B> {
    /// The same parameter, borrowed from this for a while.
    pub fn reborrow(&mut self) -> ParamRef<'_, B> {
        match self {
            Self::Weight(p) => ParamRef::Weight(p),
            Self::Matrix(p) => ParamRef::Matrix(p),
            Self::Vector(p) => ParamRef::Vector(p),
        }
    }

    /// Its gradient, allocated as zeros if there is none yet.
    pub(crate) fn gradient<'g>(&self, grads: &'g mut Grads<B>) -> Result<Gradient<'g, B>, OpError> {
        match self {
            Self::Weight(p) => slot(&mut grads.weights, p).map(Gradient::Elems),
            Self::Matrix(p) => slot(&mut grads.params, p).map(Gradient::Floats),
            Self::Vector(p) => slot(&mut grads.params, p).map(Gradient::Floats),
        }
    }

    /// The device it lies on.
    pub fn device(&self) -> B {
        match self {
            Self::Weight(p) => p.device().clone(),
            Self::Matrix(p) => p.device().clone(),
            Self::Vector(p) => p.device().clone(),
        }
    }

    /// Bytes of its values; its gradient takes as many.
    pub fn bytes(&self) -> usize {
        let each = if matches!(self, Self::Weight(_)) { size_of::<B::Elem>() } else { size_of::<f32>() };
        self.len() * each
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Weight(p) => p.shape().num_elements(),
            Self::Matrix(p) => p.shape().num_elements(),
            Self::Vector(p) => p.shape().num_elements(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Weight(p) => vec![p.shape().0, p.shape().1],
            Self::Matrix(p) => vec![p.shape().0, p.shape().1],
            Self::Vector(p) => vec![p.shape().0],
        }
    }

    /// The parameter's values, exactly.
    pub fn read(&self) -> Vec<f32> {
        match self {
            Self::Weight(p) => host::weight_to_vec::<B>(p),
            Self::Matrix(p) => host::matrix_to_vec::<B>(p),
            Self::Vector(p) => host::vector_to_vec::<B>(p),
        }
    }

    /// The bytes of a big weight that is stored in bf16, little-endian; `None` for anything else.
    ///
    /// # Errors
    /// The device failed.
    pub fn read_bf16(&self) -> Result<Option<Vec<u8>>, OpError> {
        match self {
            Self::Weight(p) => p.device().weight_to_bf16(p),
            Self::Matrix(_) | Self::Vector(_) => Ok(None),
        }
    }

    /// Overwrites the values, rounded to the parameter's dtype. `values` must have [`ParamRef::len`] elements.
    pub fn write(&mut self, values: &[f32]) -> Result<(), OpError> {
        self.expect(values.len())?;
        match self {
            Self::Weight(p) => p.device().clone().tensor_write(p, &B::elems_from_f32(values.to_vec())),
            Self::Matrix(p) => p.device().clone().tensor_write(p, values),
            Self::Vector(p) => p.device().clone().tensor_write(p, values),
        }
    }

    /// The gradient's values; zeros if no backward reached it.
    pub fn read_grad(&self, grads: &mut Grads<B>) -> Result<Vec<f32>, OpError> {
        match self.gradient(grads)? {
            Gradient::Elems(d) => self.device().read_buffer(d),
            Gradient::Floats(d) => self.device().read_params(d),
        }
    }

    /// Overwrites the gradient with as many host values, e.g. after a reduction over ranks.
    pub fn write_grad(&self, grads: &mut Grads<B>, values: &[f32]) -> Result<(), OpError> {
        self.expect(values.len())?;
        match self.gradient(grads)? {
            Gradient::Elems(d) => self.device().write_buffer(d, values),
            Gradient::Floats(d) => self.device().write_params(d, values),
        }
    }

    fn expect(&self, len: usize) -> Result<(), OpError> {
        if len == self.len() {
            Ok(())
        } else {
            Err(OpError::shape("parameter", ("values", [len]), ("shape", self.shape())))
        }
    }
}

/// The gradient of `tensor`, allocated as zeros if there is none yet.
fn slot<'g, S: Shape, E, D: dfdx::tensor::Storage<E>>(
    grads: &'g mut dfdx::prelude::Gradients<E, D>,
    tensor: &Tensor<S, E, D>,
) -> Result<&'g mut D::Vec, OpError> {
    grads.get_or_alloc_mut(tensor).map_err(OpError::gradient)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::on_every_device;

    fn check<B: Backend>(dev: B) {
        let mut weight = host::weight_from_vec(&dev, vec![1.0, 2.0, 3.0, 4.0], 2, 2).unwrap();
        let mut bias = host::vector_from_vec(&dev, vec![5.0, 6.0]).unwrap();
        let mut grads = Grads::<B>::default();
        let mut w = ParamRef::<B>::Weight(&mut weight);
        assert_eq!((w.len(), w.shape(), w.is_empty()), (4, vec![2, 2], false));
        w.write(&[4.0, 3.0, 2.0, 1.0]).unwrap();
        assert_eq!(w.read(), [4.0, 3.0, 2.0, 1.0]);
        let bytes = (size_of::<B::Elem>() == 2).then(|| vec![0x80, 0x40, 0x40, 0x40, 0, 0x40, 0x80, 0x3f]);
        assert_eq!(w.read_bf16().unwrap(), bytes);
        assert_eq!(w.read_grad(&mut grads).unwrap(), [0.0; 4]);
        w.write_grad(&mut grads, &[1.0, 0.0, -1.0, 2.0]).unwrap();
        assert_eq!(w.read_grad(&mut grads).unwrap(), [1.0, 0.0, -1.0, 2.0]);
        w.reborrow().write(&[1.0; 4]).unwrap();
        assert_eq!(w.read(), [1.0; 4]);
        let mut b = ParamRef::<B>::Vector(&mut bias);
        assert_eq!(b.write(&[1.0]).unwrap_err().to_string(), "parameter: values [1] does not fit shape [2]");
    }

    #[test]
    fn a_parameter_and_its_gradient_are_read_and_written() {
        on_every_device!(check);
    }
}
