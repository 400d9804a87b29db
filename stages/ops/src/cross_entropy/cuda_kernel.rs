//! The fused head on CUDA: gather a chunk's rows, f32 logits by a GEMM, one kernel for softmax, loss and gradient in
//! place, and GEMMs on that gradient.
//!
//! The weight's gradient is summed over chunks in f32 and rounded once. One transfer to the host a call: the rows'
//! losses, which are added there in f64 in row order. Unaware of labels that are ignored.

use cudarc::driver::DeviceSlice;
use dfdx::prelude::Cuda;
use dfdx::shapes::HasShape;
use dfdx::tensor::Storage;

use super::{CrossEntropyKernel, HeadGradients, LossSum, Wanted};
use crate::OpError;
use crate::add::{flat, narrow};
use crate::backend::{Act, Buffer, Weight};
use crate::cpu::memory::expect_len;
use crate::cuda::{Arg, Bf16, Gemm, Grid, Operand, Slice, addr, download, gemm, launch, scratch, slice_addr, upload};
use crate::embedding::{gather, scatter};

const OP: &str = "linear_cross_entropy";

/// Logits held at a time, in bytes, about.
const HELD: usize = 256 << 20;
/// Chunks from which on their number is halved: the gradient's product over 512 rows of Llama 3's head leaves half of an
/// H100 idle (470 against 740 TFLOP/s), and a step of so many rows holds much more than logits.
const MANY: usize = 8;

/// Labelled rows of a chunk: a multiple of a GEMM's tile (which also keeps every chunk's address aligned), at least
/// one. Depends on the vocabulary and the number of rows only.
pub(crate) fn chunk_rows(vocabulary: usize, rows: usize) -> usize {
    let least = (HELD / 4 / vocabulary.max(1) / 128 * 128).clamp(128, 16 * 1024);
    if rows >= MANY * least { 2 * least } else { least }
}

/// The head and what its chunks share.
struct Head<'a> {
    dev: &'a Cuda,
    weight: u64,
    vocabulary: usize,
    width: usize,
    /// A chunk's rows of x, bf16.
    inputs: Slice<Bf16>,
    /// A chunk's logits, f32, and then in each row's first half their gradient, bf16.
    logits: Slice<f32>,
}

impl Head<'_> {
    /// `logits = inputs W^T` for the first `count` rows.
    fn product(&self, count: usize) -> Result<(), OpError> {
        let call = Gemm {
            m: count,
            n: self.vocabulary,
            k: self.width,
            a: Operand::bf16(slice_addr(&self.inputs), self.width),
            b: Operand::bf16(self.weight, self.width).t(),
            c: Operand::f32(slice_addr(&self.logits), self.vocabulary),
            alpha: 1.0,
            beta: 0.0,
            source: None,
        };
        // SAFETY: inputs and logits were made for a chunk of at least `count` rows.
        unsafe { gemm(self.dev, &call) }
    }

    /// Losses of `count` rows, and their gradient over the logits if `scale` is given.
    fn softmax(&self, count: usize, losses: u64, targets: u64, scale: Option<f32>) -> Result<(), OpError> {
        let vectors = self.vocabulary.is_multiple_of(4);
        let name = if vectors { "anneal_cross_entropy_rows" } else { "anneal_cross_entropy_rows_any" };
        let args = [
            Arg::Ptr(losses),                                     // float* losses
            Arg::Ptr(slice_addr(&self.logits)),                   // float* logits
            Arg::Ptr(targets),                                    // const unsigned* targets
            Arg::U32(narrow(OP, "vocabulary", self.vocabulary)?), // unsigned vocabulary
            Arg::F32(scale.unwrap_or(0.0)),                       // float scale
            Arg::U32(u32::from(scale.is_some())),                 // unsigned gradient
        ];
        let threads = if self.vocabulary > 4096 { 1024 } else { 256 };
        let grid = Grid { blocks: (narrow(OP, "rows", count)?, 1, 1), threads, shared_bytes: 0 };
        // SAFETY: losses and targets are addresses of `count` numbers; `linear_cross_entropy` checked the targets.
        unsafe { launch(self.dev, name, grid, &args) }
    }

    /// The gradient that [`Head::softmax`] left: `[count, vocabulary]`.
    fn gradient(&self) -> Operand {
        Operand::bf16(slice_addr(&self.logits), 2 * self.vocabulary)
    }

    /// `d_rows = gradient W`.
    fn rows(&self, count: usize, d_rows: u64) -> Result<(), OpError> {
        let call = Gemm {
            m: count,
            n: self.width,
            k: self.vocabulary,
            a: self.gradient(),
            b: Operand::bf16(self.weight, self.width),
            c: Operand::bf16(d_rows, self.width),
            alpha: 1.0,
            beta: 0.0,
            source: None,
        };
        // SAFETY: d_rows is the address of `count * width` elements.
        unsafe { gemm(self.dev, &call) }
    }

    /// `d_weight = gradient^T inputs`, or `+=` if `add`.
    fn weight(&self, count: usize, d_weight: Operand, add: bool) -> Result<(), OpError> {
        let call = Gemm {
            m: self.vocabulary,
            n: self.width,
            k: count,
            a: self.gradient().t(),
            b: Operand::bf16(slice_addr(&self.inputs), self.width),
            c: d_weight,
            alpha: 1.0,
            beta: if add { 1.0 } else { 0.0 },
            source: None,
        };
        // SAFETY: d_weight holds `vocabulary * width` elements.
        unsafe { gemm(self.dev, &call) }
    }
}

/// Where the weight's gradient is summed.
enum DWeight {
    /// All rows are one chunk: the result itself.
    Once(Slice<Bf16>),
    /// The sum over chunks.
    Sum(Slice<f32>),
}

impl DWeight {
    fn new(dev: &Cuda, len: usize, chunks: usize) -> Result<Self, OpError> {
        Ok(if chunks == 1 { Self::Once(scratch(dev, len)?) } else { Self::Sum(scratch(dev, len)?) })
    }

    fn add(&self, head: &Head, count: usize, chunk: usize) -> Result<(), OpError> {
        match self {
            Self::Once(d) => head.weight(count, Operand::bf16(slice_addr(d), head.width), false),
            Self::Sum(d) => head.weight(count, Operand::f32(slice_addr(d), head.width), chunk > 0),
        }
    }

    fn finish(self, dev: &Cuda) -> Result<Slice<Bf16>, OpError> {
        let sum = match self {
            Self::Once(d) => return Ok(d),
            Self::Sum(sum) => sum,
        };
        let out = scratch::<Bf16>(dev, sum.len())?;
        let args = [
            Arg::Ptr(slice_addr(&out)), // __nv_bfloat16* out
            Arg::Ptr(slice_addr(&sum)), // const float* x
            Arg::U64(sum.len() as u64), // unsigned long long len
        ];
        // SAFETY: both have the length passed.
        unsafe { launch(dev, "anneal_cross_entropy_narrow", flat(sum.len()), &args)? };
        Ok(out)
    }
}

/// Memory that is full already, as storage of a gradient. dfdx would zero it first.
fn storage(dev: &Cuda, full: Slice<Bf16>) -> Result<Buffer<Cuda>, OpError> {
    let mut storage = Storage::<Bf16>::try_alloc_len(dev, 0).map_err(OpError::device)?;
    *storage = full;
    Ok(storage)
}

fn add_up(losses: &[f32]) -> LossSum {
    let mut loss = LossSum { count: losses.len(), ..LossSum::default() };
    for (i, nll) in losses.iter().enumerate() {
        if !nll.is_finite() && loss.first_non_finite.is_none() {
            loss.first_non_finite = Some(i);
        }
        loss.sum += f64::from(*nll);
    }
    loss
}

impl CrossEntropyKernel for Cuda {
    fn cross_entropy_forward(
        &self,
        x: &Act<Self>,
        rows: &[u32],
        targets: &[u32],
        weight: &Weight<Self>,
        wanted: Option<Wanted>,
    ) -> Result<(LossSum, Option<HeadGradients<Self>>), OpError> {
        let &(vocabulary, width) = weight.shape();
        if rows.is_empty() {
            return Ok((LossSum::default(), None));
        }
        if width == 0 {
            return Err(OpError::argument(OP, "the width is 0"));
        }
        let each = chunk_rows(vocabulary, rows.len()).min(rows.len());
        let (source, list) = (addr(x)?, upload(self, &[rows, targets].concat())?);
        let losses = scratch::<f32>(self, rows.len())?;
        let head = Head {
            dev: self,
            weight: addr(weight)?,
            vocabulary,
            width,
            inputs: scratch(self, each * width)?,
            logits: scratch(self, each * vocabulary)?,
        };
        let d_rows = wanted.map(|_| scratch::<Bf16>(self, rows.len() * width)).transpose()?;
        let d_weight = match wanted {
            Some(Wanted { weight: true, .. }) => {
                Some(DWeight::new(self, vocabulary * width, rows.len().div_ceil(each))?)
            }
            _ => None,
        };
        for (chunk, first) in (0..rows.len()).step_by(each).enumerate() {
            let count = each.min(rows.len() - first);
            let at = |index: usize| slice_addr(&list) + 4 * index as u64;
            // SAFETY: `linear_cross_entropy` checked every row against x; `inputs` has room for `each` of them.
            unsafe { gather(self, OP, (slice_addr(&head.inputs), source, at(first)), (count, width))? };
            head.product(count)?;
            let scale = wanted.map(|wanted| wanted.scale);
            head.softmax(count, slice_addr(&losses) + 4 * first as u64, at(rows.len() + first), scale)?;
            if let Some(d_rows) = &d_rows {
                head.rows(count, slice_addr(d_rows) + 2 * (first * width) as u64)?;
            }
            if let Some(d_weight) = &d_weight {
                d_weight.add(&head, count, chunk)?;
            }
        }
        let d_weight = d_weight.map(|d_weight| storage(self, d_weight.finish(self)?)).transpose()?;
        let gradients = match d_rows {
            Some(d_rows) => Some(HeadGradients { rows: storage(self, d_rows)?, weight: d_weight }),
            None => None,
        };
        Ok((add_up(&download(self, &losses)?), gradients))
    }

    fn cross_entropy_held(&self, rows: usize, (vocabulary, width): (usize, usize), wanted: Option<Wanted>) -> usize {
        let each = chunk_rows(vocabulary, rows).min(rows);
        // The weight's gradient is summed in f32 unless one chunk is all.
        let summed = wanted.is_some_and(|wanted| wanted.weight) && rows > each;
        let sum = if summed { vocabulary * width * size_of::<f32>() } else { 0 };
        // Rows and targets, losses; a chunk's inputs and logits.
        rows * 12 + each * (width * size_of::<Bf16>() + vocabulary * size_of::<f32>()) + sum
    }

    fn cross_entropy_backward(
        &self,
        rows: &[u32],
        width: usize,
        d_rows: &Buffer<Self>,
        d_x: &mut Buffer<Self>,
    ) -> Result<(), OpError> {
        expect_len(OP, d_rows.len(), rows.len() * width)?;
        // SAFETY: the length of d_rows was checked; `linear_cross_entropy` checked the rows against x, whose gradient
        // d_x is.
        unsafe { scatter(self, OP, (slice_addr(d_x), slice_addr(d_rows)), rows, width) }
    }
}
