//! The linear map on the CPU: gemm for many rows, a matrix-vector loop for few.

use std::borrow::Cow;

use dfdx::prelude::{Cpu, TensorFromVec};
use dfdx::shapes::HasShape;

use super::products::{add_branch, drop_out, forward};
use super::rows::forward_rows;
use super::{Dropout, Linear, LinearKernel, Lora};
use crate::OpError;
use crate::add::add_assign;
use crate::backend::{Act, Buffer, Matrix, ParamBuffer, Weight};
use crate::cpu::gemm::{Mat, On, gemm, product};
use crate::cpu::memory::expect_len;
use crate::cpu::{simd, slice};

const OP: &str = "linear";

/// `x`, or a dropped-out copy of it.
fn dropped(x: &[f32], dropout: Option<Dropout>) -> Cow<'_, [f32]> {
    match dropout {
        None => Cow::Borrowed(x),
        Some(dropout) => {
            let mut copy = x.to_vec();
            drop_out(&mut copy, dropout);
            Cow::Owned(copy)
        }
    }
}

impl LinearKernel for Cpu {
    fn linear_forward(
        &self,
        x: &Act<Self>,
        args: &Linear<Self>,
        dropout: Option<Dropout>,
    ) -> Result<(Act<Self>, Option<Matrix<Self>>), OpError> {
        let (&(rows, width), &(outs, _)) = (x.shape(), args.weight.shape());
        let (x, weight) = (slice::matrix(OP, x)?, slice::matrix(OP, &args.weight)?);
        let mut y = forward(x, rows, width, weight, outs);
        let mut saved = None;
        if let Some(lora) = &args.lora {
            let (a, b) = (slice::matrix(OP, &lora.a)?, slice::matrix(OP, &lora.b)?);
            let r = lora.a.shape().0;
            let u = forward(&dropped(x, dropout), rows, width, a, r);
            add_branch(&mut y, lora.scaling, &u, rows, b, outs, r);
            saved = Some(self.try_tensor_from_vec(u, (rows, r)).map_err(OpError::device)?);
        }
        if let (Some(bias), true) = (&args.bias, outs > 0) {
            let bias = slice::vector(OP, bias)?;
            for y in y.chunks_exact_mut(outs) {
                simd::add_assign(y, bias);
            }
        }
        Ok((self.try_tensor_from_vec(y, (rows, outs)).map_err(OpError::device)?, saved))
    }

    fn linear_rows(&self, x: &Act<Self>, args: &Linear<Self>) -> Result<Act<Self>, OpError> {
        let (&(rows, width), &(outs, _)) = (x.shape(), args.weight.shape());
        if width == 0 {
            return Ok(self.linear_forward(x, args, None)?.0);
        }
        let weight = (slice::matrix(OP, &args.weight)?, outs, width);
        let lora = match &args.lora {
            None => None,
            Some(lora) => {
                Some((slice::matrix(OP, &lora.a)?, slice::matrix(OP, &lora.b)?, lora.a.shape().0, lora.scaling))
            }
        };
        let bias = args.bias.as_ref().map(|bias| slice::vector(OP, bias)).transpose()?;
        let y = forward_rows(slice::matrix(OP, x)?, weight, lora, bias);
        self.try_tensor_from_vec(y, (rows, outs)).map_err(OpError::device)
    }

    fn linear_branch_gradient(
        &self,
        lora: &Lora<Self>,
        d: &Buffer<Self>,
        rows: usize,
    ) -> Result<Matrix<Self>, OpError> {
        let &(outs, r) = lora.b.shape();
        expect_len(OP, d.len(), rows * outs)?;
        let b = slice::matrix(OP, &lora.b)?;
        let e = product(lora.scaling, Mat::new(d, rows, outs), Mat::new(b, outs, r), On::Pool);
        self.try_tensor_from_vec(e, (rows, r)).map_err(OpError::device)
    }

    fn linear_backward(
        &self,
        weight: &Weight<Self>,
        d: &Buffer<Self>,
        branch: Option<(&Lora<Self>, &Matrix<Self>)>,
        dropout: Option<Dropout>,
        d_x: &mut Buffer<Self>,
    ) -> Result<(), OpError> {
        let &(outs, width) = weight.shape();
        let Some(rows) = d_x.len().checked_div(width) else { return Ok(()) };
        expect_len(OP, d.len(), rows * outs)?;
        let w = slice::matrix(OP, weight)?;
        gemm(d_x, width, true, 1.0, Mat::new(d, rows, outs), Mat::new(w, outs, width), On::Pool);
        if let Some((lora, e)) = branch {
            let r = lora.a.shape().0;
            let (a, e) = (slice::matrix(OP, &lora.a)?, slice::matrix(OP, e)?);
            let (e, a) = (Mat::new(e, rows, r), Mat::new(a, r, width));
            match dropout {
                None => gemm(d_x, width, true, 1.0, e, a, On::Pool),
                Some(dropout) => {
                    let mut through = product(1.0, e, a, On::Pool);
                    drop_out(&mut through, dropout);
                    add_assign(d_x, &through);
                }
            }
        }
        Ok(())
    }

    fn linear_backward_weight(
        &self,
        x: &Act<Self>,
        d: &Buffer<Self>,
        d_weight: &mut Buffer<Self>,
    ) -> Result<(), OpError> {
        let &(rows, width) = x.shape();
        let Some(outs) = d_weight.len().checked_div(width) else { return Ok(()) };
        expect_len(OP, d.len(), rows * outs)?;
        let x = slice::matrix(OP, x)?;
        gemm(d_weight, width, true, 1.0, Mat::new(d, rows, outs).t(), Mat::new(x, rows, width), On::Pool);
        Ok(())
    }

    fn linear_backward_bias(&self, d: &Buffer<Self>, d_bias: &mut ParamBuffer<Self>) -> Result<(), OpError> {
        if !d_bias.is_empty() {
            for d in d.chunks_exact(d_bias.len()) {
                simd::add_assign(d_bias, d);
            }
        }
        Ok(())
    }

    fn linear_backward_a(
        &self,
        x: &Act<Self>,
        e: &Matrix<Self>,
        dropout: Option<Dropout>,
        d_a: &mut ParamBuffer<Self>,
    ) -> Result<(), OpError> {
        let (&(rows, width), &(_, r)) = (x.shape(), e.shape());
        let (x, e) = (slice::matrix(OP, x)?, slice::matrix(OP, e)?);
        let x = dropped(x, dropout);
        gemm(d_a, width, true, 1.0, Mat::new(e, rows, r).t(), Mat::new(&x, rows, width), On::Pool);
        Ok(())
    }

    fn linear_backward_b(
        &self,
        lora: &Lora<Self>,
        u: &Matrix<Self>,
        d: &Buffer<Self>,
        d_b: &mut ParamBuffer<Self>,
    ) -> Result<(), OpError> {
        let (&(rows, r), &(outs, _)) = (u.shape(), lora.b.shape());
        expect_len(OP, d.len(), rows * outs)?;
        let u = slice::matrix(OP, u)?;
        gemm(d_b, r, true, lora.scaling, Mat::new(d, rows, outs).t(), Mat::new(u, rows, r), On::Pool);
        Ok(())
    }
}
