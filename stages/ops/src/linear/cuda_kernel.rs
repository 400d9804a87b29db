//! The linear map on CUDA: products through cuBLASLt, a few small kernels around them.
//!
//! An output begins as its LoRA branch, a product that only writes, or as the residual; the large product adds to that
//! while it computes. The input's gradient is made likewise. Unaware of tapes.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;

use super::cuda_branch::Part;
use super::cuda_few::{self, Few, FewModule};
use super::{Group, LinearKernel, Slots};
use crate::OpError;
use crate::backend::{Act, Buffer, ParamBuffer};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Gemm, Grid, Operand, addr, gemm, launch, new_act, slice_addr};

const OP: &str = "linear";

/// `d_bias += sum of the rows of d`, in order.
fn backward_bias(dev: &Cuda, d: &Buffer<Cuda>, d_bias: &mut ParamBuffer<Cuda>) -> Result<(), OpError> {
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
    unsafe { launch(dev, "anneal_linear_bias_gradient", grid, &args) }
}

impl LinearKernel for Cuda {
    type Branches = Vec<Part>;

    fn linear_forward(
        &self,
        x: &Act<Self>,
        group: &Group<Self>,
        onto: Option<&Act<Self>>,
    ) -> Result<(Vec<Act<Self>>, Vec<Part>), OpError> {
        let &(rows, width) = x.shape();
        let parts = Part::all(self, x, group)?;
        let onto = onto.map(addr).transpose()?;
        let mut all = Vec::with_capacity(group.modules.len());
        for (module, args) in group.modules.iter().enumerate() {
            let outs = args.weight.shape().0;
            let out = new_act(self, rows, outs)?;
            let y = Operand::bf16(addr(&out)?, outs);
            let mut begun = false;
            for part in &parts {
                // SAFETY: y [rows, outs]; `linear_onto` checked that the residual is too.
                begun |= unsafe { part.forward(self, group, module, (y, onto), rows) }?;
            }
            let source = onto.filter(|_| !begun);
            let beta = if begun || source.is_some() { 1.0 } else { 0.0 };
            let (x_rows, weight) = (Operand::bf16(addr(x)?, width), Operand::bf16(addr(&args.weight)?, width));
            let call = Gemm::new([rows, outs, width], x_rows, weight.t(), y);
            // SAFETY: x [rows, width], weight [outs, width] and y [rows, outs], as checked by `linear`.
            unsafe { gemm(self, &Gemm { beta, source, ..call }) }?;
            if let Some(bias) = &args.bias {
                let n = rows * outs;
                // y, bias, n, outs
                let args = [Arg::Ptr(y.addr), Arg::Ptr(addr(bias)?), Arg::U64(n as u64), Arg::U64(outs as u64)];
                // SAFETY: y has n elements, the bias `outs`.
                unsafe { launch(self, "anneal_linear_bias", Grid::over(self, n, 1), &args) }?;
            }
            all.push(out);
        }
        Ok((all, parts))
    }

    fn linear_few(
        &self,
        x: &Act<Self>,
        group: &Group<Self>,
        onto: Option<&Act<Self>>,
    ) -> Result<Vec<Act<Self>>, OpError> {
        let &(rows, width) = x.shape();
        if !cuda_few::fits(width) {
            return self.linear_rows(x, group, onto);
        }
        let (x, onto) = (addr(x)?, onto.map_or(Ok(0), addr)?);
        let mut all = Vec::with_capacity(group.modules.len());
        for modules in group.modules.chunks(cuda_few::TOGETHER) {
            let acts: Vec<_> =
                modules.iter().map(|args| new_act(self, rows, args.weight.shape().0)).collect::<Result<_, _>>()?;
            let outs: Vec<_> = acts.iter().map(addr).collect::<Result<_, _>>()?;
            let modules: Vec<_> = modules.iter().map(FewModule::of).collect::<Result<_, _>>()?;
            let call = Few {
                x,
                onto,
                u: 0,
                rows,
                width,
                modules: &modules,
                outs: &outs,
                gated: false,
                wide: false,
                early: false,
            };
            // SAFETY: `linear_few` checked the modules and the residual against x; the outputs were made for them.
            unsafe { cuda_few::few(self, &call) }?;
            all.extend(acts);
        }
        Ok(all)
    }

    fn linear_few_gated(&self, x: &Act<Self>, group: &Group<Self>) -> Result<Option<Act<Self>>, OpError> {
        let &(rows, width) = x.shape();
        if !cuda_few::fits(width) {
            return Ok(None);
        }
        let modules: Vec<_> = group.modules.iter().map(FewModule::of).collect::<Result<_, _>>()?;
        let out = new_act(self, rows, modules.first().map_or(0, |module| module.outs))?;
        let outs = [addr(&out)?];
        let call = Few {
            x: addr(x)?,
            onto: 0,
            u: 0,
            rows,
            width,
            modules: &modules,
            outs: &outs,
            gated: true,
            wide: false,
            early: false,
        };
        // SAFETY: `linear_few_gated` checked that both modules fit x and each other; the output was made for them.
        unsafe { cuda_few::few(self, &call) }?;
        Ok(Some(out))
    }

    fn linear_backward(
        &self,
        x: Option<&Act<Self>>,
        group: &Group<Self>,
        branches: &Vec<Part>,
        d: &[Buffer<Self>],
        slots: Slots<'_, Self>,
    ) -> Result<(), OpError> {
        let Slots { weights, params, input: d_x, mut input_unwritten } = slots;
        let width = group.modules.first().map_or(0, |args| args.weight.shape().1);
        let Some(rows) = d_x.len().checked_div(width) else { return Ok(()) };
        for (args, d) in group.modules.iter().zip(d) {
            expect_len(OP, d.len(), rows * args.weight.shape().0)?;
        }
        let mut e = Vec::with_capacity(branches.len());
        if let Some(x) = x {
            for part in branches {
                e.push(part.backward_parameters(self, x, group, d, params)?);
            }
            for (args, d) in group.modules.iter().zip(d).filter(|(args, _)| args.trainable) {
                let outs = args.weight.shape().0;
                let d_weight = weights.get_or_alloc_mut(&args.weight).map_err(OpError::gradient)?;
                expect_len(OP, d_weight.len(), outs * width)?;
                let (d_rows, x_rows) = (Operand::bf16(slice_addr(d), outs), Operand::bf16(addr(x)?, width));
                let to = Operand::bf16(slice_addr(d_weight), width);
                let call = Gemm { beta: 1.0, ..Gemm::new([outs, width, rows], d_rows.t(), x_rows, to) };
                // SAFETY: d [rows, outs], x [rows, width], d_weight [outs, width].
                unsafe { gemm(self, &call) }?;
                if let Some(bias) = &args.bias {
                    backward_bias(self, d, params.get_or_alloc_mut(bias).map_err(OpError::gradient)?)?;
                }
            }
        }
        for (part, e) in branches.iter().zip(&e).filter(|(part, _)| part.shares_input()) {
            part.backward_input(self, e, d_x, rows, input_unwritten)?;
            input_unwritten = false;
        }
        for (args, d) in group.modules.iter().zip(d) {
            let outs = args.weight.shape().0;
            let (d, weight) = (Operand::bf16(slice_addr(d), outs), Operand::bf16(addr(&args.weight)?, width));
            let beta = if input_unwritten { 0.0 } else { 1.0 };
            let call = Gemm::new([rows, width, outs], d, weight, Operand::bf16(slice_addr(d_x), width));
            // SAFETY: d [rows, outs], weight [outs, width], d_x [rows, width].
            unsafe { gemm(self, &Gemm { beta, ..call }) }?;
            input_unwritten = false;
        }
        for (part, e) in branches.iter().zip(&e).filter(|(part, _)| !part.shares_input()) {
            part.backward_input(self, e, d_x, rows, false)?;
        }
        Ok(())
    }
}
