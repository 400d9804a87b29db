//! The linear map on the CPU: gemm for many rows, a matrix-vector loop for few.

use std::borrow::Cow;

use dfdx::prelude::{Cpu, TensorFromVec};
use dfdx::shapes::HasShape;

use super::products::{add_branch, drop_out, forward};
use super::rows::forward_rows;
use super::{Dropout, Group, Linear, LinearKernel, Lora, Slots};
use crate::OpError;
use crate::add::add_assign;
use crate::backend::{Act, Buffer, Matrix};
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

/// One module's output and, with a branch, `u`.
fn forward_one(
    x: &Act<Cpu>,
    args: &Linear<Cpu>,
    dropout: Option<Dropout>,
    onto: Option<&Act<Cpu>>,
) -> Result<(Act<Cpu>, Option<Matrix<Cpu>>), OpError> {
    let dev = x.device();
    let (&(rows, width), &(outs, _)) = (x.shape(), args.weight.shape());
    let (x, weight) = (slice::matrix(OP, x)?, slice::matrix(OP, &args.weight)?);
    let mut y = forward(x, rows, width, weight, outs);
    let mut saved = None;
    if let Some(lora) = &args.lora {
        let (a, b) = (slice::matrix(OP, &lora.a)?, slice::matrix(OP, &lora.b)?);
        let r = lora.a.shape().0;
        let u = forward(&dropped(x, dropout), rows, width, a, r);
        add_branch(&mut y, lora.scaling, &u, rows, b, outs, r);
        saved = Some(dev.try_tensor_from_vec(u, (rows, r)).map_err(OpError::device)?);
    }
    if let (Some(bias), true) = (&args.bias, outs > 0) {
        let bias = slice::vector(OP, bias)?;
        for y in y.chunks_exact_mut(outs) {
            simd::add_assign(y, bias);
        }
    }
    if let Some(onto) = onto {
        add_assign(&mut y, slice::matrix(OP, onto)?);
    }
    Ok((dev.try_tensor_from_vec(y, (rows, outs)).map_err(OpError::device)?, saved))
}

/// `e = scaling * d B`, `[rows, r]`.
fn branch_gradient(lora: &Lora<Cpu>, d: &[f32], rows: usize) -> Result<Vec<f32>, OpError> {
    let &(outs, r) = lora.b.shape();
    let b = slice::matrix(OP, &lora.b)?;
    Ok(product(lora.scaling, Mat::new(d, rows, outs), Mat::new(b, outs, r), On::Pool))
}

impl LinearKernel for Cpu {
    /// Each branch's `u`.
    type Branches = Vec<Option<Matrix<Self>>>;

    fn linear_forward(
        &self,
        x: &Act<Self>,
        group: &Group<Self>,
        onto: Option<&Act<Self>>,
    ) -> Result<(Vec<Act<Self>>, Self::Branches), OpError> {
        let modules = group.modules.iter().zip(&group.dropout);
        let both = modules.map(|(args, dropout)| forward_one(x, args, *dropout, onto));
        Ok(both.collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
    }

    fn linear_rows(
        &self,
        x: &Act<Self>,
        group: &Group<Self>,
        onto: Option<&Act<Self>>,
    ) -> Result<Vec<Act<Self>>, OpError> {
        let &(rows, width) = x.shape();
        if width == 0 {
            return Ok(self.linear_forward(x, group, onto)?.0);
        }
        let one = |args: &Linear<Self>| {
            let outs = args.weight.shape().0;
            let weight = (slice::matrix(OP, &args.weight)?, outs, width);
            let lora = match &args.lora {
                None => None,
                Some(lora) => {
                    Some((slice::matrix(OP, &lora.a)?, slice::matrix(OP, &lora.b)?, lora.a.shape().0, lora.scaling))
                }
            };
            let bias = args.bias.as_ref().map(|bias| slice::vector(OP, bias)).transpose()?;
            let mut y = forward_rows(slice::matrix(OP, x)?, weight, lora, bias);
            if let Some(onto) = onto {
                add_assign(&mut y, slice::matrix(OP, onto)?);
            }
            self.try_tensor_from_vec(y, (rows, outs)).map_err(OpError::device)
        };
        group.modules.iter().map(one).collect()
    }

    fn linear_backward(
        &self,
        x: Option<&Act<Self>>,
        group: &Group<Self>,
        branches: &Self::Branches,
        d: &[Buffer<Self>],
        slots: Slots<'_, Self>,
    ) -> Result<(), OpError> {
        let Slots { weights, params, input: d_x, .. } = slots;
        let x = x.map(|x| slice::matrix(OP, x)).transpose()?;
        // The last first, as nodes of their own would run.
        for (((args, dropout), u), d) in group.modules.iter().zip(&group.dropout).zip(branches).zip(d).rev() {
            let &(outs, width) = args.weight.shape();
            let Some(rows) = d_x.len().checked_div(width) else { continue };
            expect_len(OP, d.len(), rows * outs)?;
            let d_rows = Mat::new(d, rows, outs);
            let e = args.lora.as_ref().map(|lora| branch_gradient(lora, d, rows)).transpose()?;
            if let (Some(lora), Some(x), Some(u), Some(e)) = (&args.lora, x, u, &e) {
                let r = lora.a.shape().0;
                let branch_x = dropped(x, *dropout);
                let d_a = params.get_or_alloc_mut(&lora.a).map_err(OpError::gradient)?;
                gemm(d_a, width, true, 1.0, Mat::new(e, rows, r).t(), Mat::new(&branch_x, rows, width), On::Pool);
                let d_b = params.get_or_alloc_mut(&lora.b).map_err(OpError::gradient)?;
                let u = Mat::new(slice::matrix(OP, u)?, rows, r);
                gemm(d_b, r, true, lora.scaling, d_rows.t(), u, On::Pool);
            }
            if let (true, Some(x)) = (args.trainable, x) {
                let d_weight = weights.get_or_alloc_mut(&args.weight).map_err(OpError::gradient)?;
                gemm(d_weight, width, true, 1.0, d_rows.t(), Mat::new(x, rows, width), On::Pool);
                if let (Some(bias), true) = (&args.bias, outs > 0) {
                    let d_bias = params.get_or_alloc_mut(bias).map_err(OpError::gradient)?;
                    for d in d.chunks_exact(outs) {
                        simd::add_assign(d_bias, d);
                    }
                }
            }
            let weight = Mat::new(slice::matrix(OP, &args.weight)?, outs, width);
            gemm(d_x, width, true, 1.0, d_rows, weight, On::Pool);
            let (Some(lora), Some(e)) = (&args.lora, &e) else { continue };
            let r = lora.a.shape().0;
            let (e, a) = (Mat::new(e, rows, r), Mat::new(slice::matrix(OP, &lora.a)?, r, width));
            match dropout {
                None => gemm(d_x, width, true, 1.0, e, a, On::Pool),
                Some(dropout) => {
                    let mut through = product(1.0, e, a, On::Pool);
                    drop_out(&mut through, *dropout);
                    add_assign(d_x, &through);
                }
            }
        }
        Ok(())
    }
}
