//! The LoRA branches of a group of modules on CUDA: their A as one matrix, so that the input is read once for all.
//!
//! A and B are rounded to bf16 for each call, as torch's autocast does, all of a group in one launch. `u = x' A^T` and
//! `e = scaling * d B` are sums in f32, rounded once; gradients of A and B stay f32. A branch with dropout has an input of
//! its own and is a part of its own. Unaware of the modules' weights and of tapes.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::{Cuda, Gradients};
use dfdx::shapes::{HasShape, Shape};

use super::{Dropout, Group, Lora};
use crate::OpError;
use crate::backend::{Act, Buffer};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Bf16, Gemm, Grid, Operand, Slice, addr, gemm, launch, scratch, slice_addr};

const OP: &str = "linear";

/// Longest sum that a product of few columns takes at once. cuBLASLt's choice for longer ones streams the large matrix at a
/// third of the memory's speed; parts of this length, added up in f32, at nearly all of it (measured on an H100: 14,336
/// in 500 against 190 us for 16,384 rows).
const LONGEST: usize = 4096;

/// Matrices that one launch rounds.
const ROUNDED: usize = 6;

/// A branch within its part.
struct Member {
    /// Index of the module.
    module: usize,
    rank: usize,
    /// First of its columns in `u` and `e`, and of its rows in the part's A.
    at: usize,
    /// Where its B begins, in elements of `low`.
    b: usize,
}

/// Branches that share an input.
pub struct Part {
    members: Vec<Member>,
    dropout: Option<Dropout>,
    /// Of all members together.
    rank: usize,
    width: usize,
    /// bf16: all A one after the other `[rank, width]`, then each B `[out, r]`.
    low: Slice<Bf16>,
    /// `x' A^T`, `[rows, rank]`.
    u: Slice<Bf16>,
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

/// Rounds f32 matrices, each `(from, elements, first element in low)`, into `low`.
fn round(dev: &Cuda, low: &Slice<Bf16>, matrices: &[(u64, usize, usize)]) -> Result<(), OpError> {
    for matrices in matrices.chunks(ROUNDED) {
        let mut args = vec![Arg::Ptr(slice_addr(low))];
        for i in 0..ROUNDED {
            // from, elements, first
            let (from, len, at) = matrices.get(i).copied().unwrap_or((0, 0, 0));
            args.extend([Arg::Ptr(from), Arg::U64(len as u64), Arg::U64(at as u64)]);
        }
        let all = matrices.iter().map(|(_, len, _)| len).sum();
        // SAFETY: `low` was made for all the matrices, whose tensors the caller holds.
        unsafe { launch(dev, "anneal_linear_round", Grid::over(dev, all, 1), &args) }?;
    }
    Ok(())
}

/// Low-rank columns: what products over a long side are summed into.
struct Columns<'a> {
    dev: &'a Cuda,
    rounded: Slice<Bf16>,
    /// Where some sum is cut into parts.
    wide: Option<Slice<f32>>,
    rows: usize,
    rank: usize,
}

impl<'a> Columns<'a> {
    /// `[rows, rank]`, for sums of at most `longest` terms.
    fn new(dev: &'a Cuda, rows: usize, rank: usize, longest: usize) -> Result<Self, OpError> {
        let wide = (longest > LONGEST).then(|| scratch(dev, rows * rank)).transpose()?;
        Ok(Self { dev, rounded: scratch(dev, rows * rank)?, wide, rows, rank })
    }

    /// Columns `at..at + n` become `alpha * a b`, `a [rows, k]`, `b [k, n]`.
    ///
    /// # Safety
    /// As [`gemm`].
    unsafe fn fill(&self, at: usize, [n, k]: [usize; 2], a: Operand, b: Operand, alpha: f32) -> Result<(), OpError> {
        let to = match &self.wide {
            None => Operand::bf16(slice_addr(&self.rounded) + 2 * at as u64, self.rank),
            Some(wide) => Operand::f32(slice_addr(wide) + 4 * at as u64, self.rank),
        };
        let parts = if self.wide.is_some() { k.div_ceil(LONGEST).max(1) } else { 1 };
        let each = k.div_ceil(parts).next_multiple_of(64);
        for first in (0..k.max(1)).step_by(each.max(1)) {
            let skipped = |o: Operand, along_rows: bool| {
                let elements = if along_rows != o.transposed { first * o.ld } else { first };
                Operand { addr: o.addr + 2 * elements as u64, ..o }
            };
            let sizes = [self.rows, n, each.min(k - first)];
            let beta = if first == 0 { 0.0 } else { 1.0 };
            let call = Gemm::new(sizes, skipped(a, false), skipped(b, true), to);
            // SAFETY: the caller's promise; a part of the sum lies within the operands.
            unsafe { gemm(self.dev, &Gemm { alpha, beta, ..call }) }?;
        }
        Ok(())
    }

    /// All columns, rounded once.
    fn finish(self) -> Result<Slice<Bf16>, OpError> {
        if let Some(wide) = &self.wide {
            round(self.dev, &self.rounded, &[(slice_addr(wide), self.rows * self.rank, 0)])?;
        }
        Ok(self.rounded)
    }
}

/// Branches that share a dropout, each with its module's index.
type Shared<'a> = (Option<Dropout>, Vec<(usize, &'a Lora<Cuda>)>);

/// Modules of `group` with a branch, those without dropout together.
fn parts(group: &Group<Cuda>) -> Vec<Shared<'_>> {
    let mut parts: Vec<Shared> = Vec::new();
    for (module, (args, dropout)) in group.modules.iter().zip(&group.dropout).enumerate() {
        let Some(lora) = &args.lora else { continue };
        match parts.iter_mut().find(|(shared, _)| shared.is_none() && dropout.is_none()) {
            Some((_, members)) => members.push((module, lora)),
            None => parts.push((*dropout, vec![(module, lora)])),
        }
    }
    parts
}

impl Part {
    /// The parts of a group for the input `x`, their `u` computed.
    pub(super) fn all(dev: &Cuda, x: &Act<Cuda>, group: &Group<Cuda>) -> Result<Vec<Self>, OpError> {
        let new = |(dropout, members): (Option<Dropout>, Vec<_>)| Self::new(dev, x, dropout, &members);
        parts(group).into_iter().map(new).collect()
    }

    fn new(
        dev: &Cuda,
        x: &Act<Cuda>,
        dropout: Option<Dropout>,
        loras: &[(usize, &Lora<Cuda>)],
    ) -> Result<Self, OpError> {
        let &(rows, width) = x.shape();
        let rank: usize = loras.iter().map(|(_, lora)| lora.a.shape().0).sum();
        let (mut members, mut matrices) = (Vec::new(), Vec::new());
        let (mut at, mut b) = (0, (rank * width).next_multiple_of(8));
        for (module, lora) in loras {
            let (&(r, _), &(outs, _)) = (lora.a.shape(), lora.b.shape());
            members.push(Member { module: *module, rank: r, at, b });
            matrices.push((addr(&lora.a)?, r * width, at * width));
            matrices.push((addr(&lora.b)?, outs * r, b));
            // Each B begins at an address that products like.
            (at, b) = (at + r, (b + outs * r).next_multiple_of(8));
        }
        let low = scratch(dev, b)?;
        round(dev, &low, &matrices)?;
        let (from, _copy) = branch_input(dev, x, dropout)?;
        let u = Columns::new(dev, rows, rank, width)?;
        let a = Operand::bf16(slice_addr(&low), width);
        // SAFETY: the input [rows, width], A [rank, width], u [rows, rank].
        unsafe { u.fill(0, [rank, width], Operand::bf16(from, width), a.t(), 1.0) }?;
        Ok(Self { members, dropout, rank, width, low, u: u.finish()? })
    }

    /// All A, `[rank, width]`.
    fn a(&self) -> Operand {
        Operand::bf16(slice_addr(&self.low), self.width)
    }

    /// A member's B, `[out, r]`.
    fn b(&self, member: &Member) -> Operand {
        Operand::bf16(slice_addr(&self.low) + 2 * member.b as u64, member.rank)
    }

    /// A member's columns of `u` or `e`.
    fn columns(&self, low: &Slice<Bf16>, member: &Member) -> Operand {
        Operand::bf16(slice_addr(low) + 2 * member.at as u64, self.rank)
    }

    /// `y = scaling * u B^T`, or `y = source + ...`, if `module` has its branch here; whether it has.
    ///
    /// # Safety
    /// `y`, and the source, are `[rows, out]` of the module.
    pub(super) unsafe fn forward(
        &self,
        dev: &Cuda,
        group: &Group<Cuda>,
        module: usize,
        (y, source): (Operand, Option<u64>),
        rows: usize,
    ) -> Result<bool, OpError> {
        let Some(member) = self.members.iter().find(|member| member.module == module) else { return Ok(false) };
        let args = &group.modules[module];
        let (outs, scaling) = (args.weight.shape().0, args.lora.as_ref().map_or(0.0, |lora| lora.scaling));
        let sizes = [rows, outs, member.rank];
        let call = Gemm::new(sizes, self.columns(&self.u, member), self.b(member).t(), y);
        let beta = if source.is_some() { 1.0 } else { 0.0 };
        // SAFETY: u [rows, rank], B [out, r]; the caller's promise.
        unsafe { gemm(dev, &Gemm { alpha: scaling, beta, source, ..call }) }?;
        Ok(true)
    }

    /// Adds to the gradients of A and B, and returns `e`, `[rows, rank]`. `d` holds each module's gradient.
    pub(super) fn backward_parameters(
        &self,
        dev: &Cuda,
        x: &Act<Cuda>,
        group: &Group<Cuda>,
        d: &[Buffer<Cuda>],
        params: &mut Gradients<f32, Cuda>,
    ) -> Result<Slice<Bf16>, OpError> {
        let (rows, width) = (x.shape().0, self.width);
        let longest = self.members.iter().map(|m| group.modules[m.module].weight.shape().0).max().unwrap_or(0);
        let e = Columns::new(dev, rows, self.rank, longest)?;
        let loras = || self.members.iter().filter_map(|m| Some((m, group.modules[m.module].lora.as_ref()?)));
        for (member, lora) in loras() {
            let &(outs, r) = lora.b.shape();
            let d = Operand::bf16(slice_addr(&d[member.module]), outs);
            let d_b = params.get_or_alloc_mut(&lora.b).map_err(OpError::gradient)?;
            expect_len(OP, d_b.len(), outs * r)?;
            let u = self.columns(&self.u, member);
            let to_b = Gemm::new([outs, r, rows], d.t(), u, Operand::f32(slice_addr(d_b), r));
            // SAFETY: d [rows, out] (its length was checked), B [out, r], e and u [rows, rank], d_B [out, r].
            unsafe {
                e.fill(member.at, [r, outs], d, self.b(member), lora.scaling)?;
                gemm(dev, &Gemm { alpha: lora.scaling, beta: 1.0, ..to_b })?;
            }
        }
        let e = e.finish()?;
        let (from, _copy) = branch_input(dev, x, self.dropout)?;
        let (e_rows, x_rows) = (Operand::bf16(slice_addr(&e), self.rank), Operand::bf16(from, width));
        let sum = |to: u64| Gemm::new([self.rank, width, rows], e_rows.t(), x_rows, Operand::f32(to, width));
        if let [member] = &self.members[..]
            && let Some(lora) = &group.modules[member.module].lora
        {
            let d_a = params.get_or_alloc_mut(&lora.a).map_err(OpError::gradient)?;
            expect_len(OP, d_a.len(), self.rank * width)?;
            // SAFETY: e [rows, rank], the input [rows, width], d_A [rank, width].
            unsafe { gemm(dev, &Gemm { beta: 1.0, ..sum(slice_addr(d_a)) }) }?;
            return Ok(e);
        }
        let d_all = scratch::<f32>(dev, self.rank * width)?;
        // SAFETY: as above.
        unsafe { gemm(dev, &sum(slice_addr(&d_all))) }?;
        for (member, lora) in loras() {
            let d_a = params.get_or_alloc_mut(&lora.a).map_err(OpError::gradient)?;
            let len = member.rank * width;
            expect_len(OP, d_a.len(), len)?;
            let args = [
                Arg::Ptr(slice_addr(d_a)),                                     // to
                Arg::Ptr(slice_addr(&d_all) + 4 * (member.at * width) as u64), // x
                Arg::U64(len as u64),                                          // n
            ];
            // SAFETY: the member's rows of the sum, and as many of its own.
            unsafe { launch(dev, "anneal_linear_add", Grid::over(dev, len, 1), &args) }?;
        }
        Ok(e)
    }

    /// Whether the branch's input is the modules' own.
    pub(super) fn shares_input(&self) -> bool {
        self.dropout.is_none()
    }

    /// `d_x += e A`, or `=` if it is `unwritten` (never with dropout).
    pub(super) fn backward_input(
        &self,
        dev: &Cuda,
        e: &Slice<Bf16>,
        d_x: &mut Buffer<Cuda>,
        rows: usize,
        unwritten: bool,
    ) -> Result<(), OpError> {
        let (width, to) = (self.width, slice_addr(d_x));
        let e = Operand::bf16(slice_addr(e), self.rank);
        let product = |to: u64| Gemm::new([rows, width, self.rank], e, self.a(), Operand::bf16(to, width));
        let Some(dropout) = self.dropout else {
            let beta = if unwritten { 0.0 } else { 1.0 };
            // SAFETY: e [rows, rank], A [rank, width], d_x [rows, width].
            return unsafe { gemm(dev, &Gemm { beta, ..product(to) }) };
        };
        let through = scratch::<Bf16>(dev, rows * width)?;
        // SAFETY: as above, into memory of d_x's size.
        unsafe { gemm(dev, &product(slice_addr(&through))) }?;
        drop_out(dev, "anneal_linear_dropout_add", slice_addr(&through), to, rows * width, dropout)
    }
}
