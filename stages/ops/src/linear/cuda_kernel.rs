//! The linear map on CUDA: products through cuBLASLt, a few small kernels around them.
//!
//! The branch's A and B are rounded to bf16 for each product, as torch's autocast does; `u`, `e` and their gradients
//! stay f32. Unaware of tapes.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::{HasShape, Shape};

use super::{Dropout, Linear, LinearKernel, Lora};
use crate::OpError;
use crate::backend::{Act, Buffer, Matrix, ParamBuffer, Weight};
use crate::cpu::memory::expect_len;
use crate::cuda::{
    Arg, Bf16, Gemm, Grid, Operand, Slice, addr, gemm, launch, new_act, new_matrix, scratch, slice_addr,
};

const OP: &str = "linear";

/// A rounded copy of `len` f32 values at `from`.
fn rounded(dev: &Cuda, from: u64, len: usize) -> Result<Slice<Bf16>, OpError> {
    let copy = scratch::<Bf16>(dev, len)?;
    // x, out, n
    let args = [Arg::Ptr(from), Arg::Ptr(slice_addr(&copy)), Arg::U64(len as u64)];
    // SAFETY: both have `len` elements.
    unsafe { launch(dev, "anneal_linear_round", Grid::over(dev, len, 1), &args) }?;
    Ok(copy)
}

/// Runs one of the two dropout kernels over `len` elements.
fn drop_out(dev: &Cuda, name: &'static str, from: u64, to: u64, len: usize, dropout: Dropout) -> Result<(), OpError> {
    let probability = f64::from(dropout.probability);
    let args = [
        Arg::Ptr(from),                                   // x or through
        Arg::Ptr(to),                                     // out or d_x
        Arg::U64(len as u64),                             // n
        Arg::U64(dropout.key),                            // key
        Arg::U32((probability * 4_294_967_296.0) as u32), // limit
        Arg::F32((1.0 / (1.0 - probability)) as f32),     // grow
    ];
    // SAFETY: callers pass two allocations of `len` bf16.
    unsafe { launch(dev, name, Grid::over(dev, len, 1), &args) }
}

/// The branch's input: `x` itself, or a dropped-out copy, which must live until the product is launched.
fn branch_input(dev: &Cuda, x: &Act<Cuda>, dropout: Option<Dropout>) -> Result<(u64, Option<Slice<Bf16>>), OpError> {
    let (from, len) = (addr(x)?, x.shape().num_elements());
    let Some(dropout) = dropout else { return Ok((from, None)) };
    let copy = scratch::<Bf16>(dev, len)?;
    drop_out(dev, "anneal_linear_dropout", from, slice_addr(&copy), len, dropout)?;
    Ok((slice_addr(&copy), Some(copy)))
}

/// `C[m, n] = alpha * op(A) op(B) + beta * C` with bf16 A and B.
///
/// # Safety
/// As [`gemm`].
unsafe fn product(
    dev: &Cuda,
    [m, n, k]: [usize; 3],
    a: Operand,
    b: Operand,
    c: Operand,
    [alpha, beta]: [f32; 2],
) -> Result<(), OpError> {
    // SAFETY: the caller's promise.
    unsafe { gemm(dev, &Gemm { m, n, k, a, b, c, alpha, beta }) }
}

impl LinearKernel for Cuda {
    fn linear_forward(
        &self,
        x: &Act<Self>,
        args: &Linear<Self>,
        dropout: Option<Dropout>,
    ) -> Result<(Act<Self>, Option<Matrix<Self>>), OpError> {
        let (&(rows, width), &(outs, _)) = (x.shape(), args.weight.shape());
        let out = new_act(self, rows, outs)?;
        let y = Operand::bf16(addr(&out)?, outs);
        let (x_rows, weight) = (Operand::bf16(addr(x)?, width), Operand::bf16(addr(&args.weight)?, width));
        // SAFETY: x [rows, width], weight [outs, width] and y [rows, outs], as checked by `linear`.
        unsafe { product(self, [rows, outs, width], x_rows, weight.t(), y, [1.0, 0.0]) }?;
        let mut saved = None;
        if let Some(lora) = &args.lora {
            let r = lora.a.shape().0;
            let u = new_matrix(self, rows, r)?;
            let (from, _copy) = branch_input(self, x, dropout)?;
            let a = rounded(self, addr(&lora.a)?, r * width)?;
            let b = rounded(self, addr(&lora.b)?, outs * r)?;
            let (a, b) = (Operand::bf16(slice_addr(&a), width), Operand::bf16(slice_addr(&b), r));
            // SAFETY: the input [rows, width], A [r, width], u [rows, r].
            unsafe {
                let u = Operand::f32(addr(&u)?, r);
                product(self, [rows, r, width], Operand::bf16(from, width), a.t(), u, [1.0, 0.0])
            }?;
            let low = rounded(self, addr(&u)?, rows * r)?;
            // SAFETY: u [rows, r], B [outs, r], y [rows, outs].
            unsafe {
                let low = Operand::bf16(slice_addr(&low), r);
                product(self, [rows, outs, r], low, b.t(), y, [lora.scaling, 1.0])
            }?;
            saved = Some(u);
        }
        if let Some(bias) = &args.bias {
            let n = rows * outs;
            // y, bias, n, outs
            let args = [Arg::Ptr(y.addr), Arg::Ptr(addr(bias)?), Arg::U64(n as u64), Arg::U64(outs as u64)];
            // SAFETY: y has n elements, the bias `outs`.
            unsafe { launch(self, "anneal_linear_bias", Grid::over(self, n, 1), &args) }?;
        }
        Ok((out, saved))
    }

    fn linear_branch_gradient(
        &self,
        lora: &Lora<Self>,
        d: &Buffer<Self>,
        rows: usize,
    ) -> Result<Matrix<Self>, OpError> {
        let &(outs, r) = lora.b.shape();
        expect_len(OP, d.len(), rows * outs)?;
        let e = new_matrix(self, rows, r)?;
        let b = rounded(self, addr(&lora.b)?, outs * r)?;
        let (d, b) = (Operand::bf16(slice_addr(d), outs), Operand::bf16(slice_addr(&b), r));
        // SAFETY: d [rows, outs], B [outs, r], e [rows, r].
        unsafe { product(self, [rows, r, outs], d, b, Operand::f32(addr(&e)?, r), [lora.scaling, 0.0]) }?;
        Ok(e)
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
        let (d, to) = (Operand::bf16(slice_addr(d), outs), Operand::bf16(slice_addr(d_x), width));
        // SAFETY: d [rows, outs], weight [outs, width], d_x [rows, width].
        unsafe {
            let weight = Operand::bf16(addr(weight)?, width);
            product(self, [rows, width, outs], d, weight, to, [1.0, 1.0])
        }?;
        let Some((lora, e)) = branch else { return Ok(()) };
        let r = lora.a.shape().0;
        let (a, e) = (rounded(self, addr(&lora.a)?, r * width)?, rounded(self, addr(e)?, rows * r)?);
        let (a, e) = (Operand::bf16(slice_addr(&a), width), Operand::bf16(slice_addr(&e), r));
        let Some(dropout) = dropout else {
            // SAFETY: e [rows, r], A [r, width], d_x [rows, width].
            return unsafe { product(self, [rows, width, r], e, a, to, [1.0, 1.0]) };
        };
        let through = scratch::<Bf16>(self, rows * width)?;
        let from = slice_addr(&through);
        // SAFETY: as above, into memory of d_x's size.
        unsafe { product(self, [rows, width, r], e, a, Operand::bf16(from, width), [1.0, 0.0]) }?;
        drop_out(self, "anneal_linear_dropout_add", from, to.addr, rows * width, dropout)
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
        let (d, x) = (Operand::bf16(slice_addr(d), outs), Operand::bf16(addr(x)?, width));
        // SAFETY: d [rows, outs], x [rows, width], d_weight [outs, width].
        unsafe { product(self, [outs, width, rows], d.t(), x, Operand::bf16(slice_addr(d_weight), width), [1.0, 1.0]) }
    }

    fn linear_backward_bias(&self, d: &Buffer<Self>, d_bias: &mut ParamBuffer<Self>) -> Result<(), OpError> {
        let outs = d_bias.len();
        let Some(rows) = d.len().checked_div(outs) else { return Ok(()) };
        expect_len(OP, d.len(), rows * outs)?;
        let args = [
            Arg::Ptr(slice_addr(d)),      // d
            Arg::Ptr(slice_addr(d_bias)), // d_bias
            Arg::U64(rows as u64),        // rows
            Arg::U64(outs as u64),        // outs
        ];
        let grid = Grid { blocks: (outs.div_ceil(32) as u32, 1, 1), threads: 256, shared_bytes: 0 };
        // SAFETY: d [rows, outs], d_bias [outs].
        unsafe { launch(self, "anneal_linear_bias_gradient", grid, &args) }
    }

    fn linear_backward_a(
        &self,
        x: &Act<Self>,
        e: &Matrix<Self>,
        dropout: Option<Dropout>,
        d_a: &mut ParamBuffer<Self>,
    ) -> Result<(), OpError> {
        let (&(rows, width), &(_, r)) = (x.shape(), e.shape());
        expect_len(OP, d_a.len(), r * width)?;
        let (from, _copy) = branch_input(self, x, dropout)?;
        let e = rounded(self, addr(e)?, rows * r)?;
        let (e, x) = (Operand::bf16(slice_addr(&e), r), Operand::bf16(from, width));
        // SAFETY: e [rows, r], the input [rows, width], d_a [r, width].
        unsafe { product(self, [r, width, rows], e.t(), x, Operand::f32(slice_addr(d_a), width), [1.0, 1.0]) }
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
        expect_len(OP, d_b.len(), outs * r)?;
        let u = rounded(self, addr(u)?, rows * r)?;
        let (d, u) = (Operand::bf16(slice_addr(d), outs), Operand::bf16(slice_addr(&u), r));
        let to = Operand::f32(slice_addr(d_b), r);
        // SAFETY: d [rows, outs], u [rows, r], d_b [outs, r].
        unsafe { product(self, [outs, r, rows], d.t(), u, to, [lora.scaling, 1.0]) }
    }
}
