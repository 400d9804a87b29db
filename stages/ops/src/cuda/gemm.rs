//! Row-major matrix products: through cuBLASLt, or a plain kernel for what it does not do. Unaware of tensors.

use dfdx::prelude::Cuda;

use super::context::context;
use super::launch::{Arg, Grid, launch};
use super::memory::clear;
use crate::OpError;

/// Type of a matrix's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Dtype {
    Bf16,
    F32,
}

impl Dtype {
    fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}

/// A matrix in device memory, its rows one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand {
    pub(crate) addr: u64,
    pub(crate) dtype: Dtype,
    /// Elements from one row, as stored, to the next.
    pub(crate) ld: usize,
    /// Whether the product takes the transpose of what is stored.
    pub(crate) transposed: bool,
}

impl Operand {
    /// bf16 rows of `ld` elements.
    pub(crate) fn bf16(addr: u64, ld: usize) -> Self {
        Self { addr, dtype: Dtype::Bf16, ld, transposed: false }
    }

    /// f32 rows of `ld` elements.
    pub(crate) fn f32(addr: u64, ld: usize) -> Self {
        Self { addr, dtype: Dtype::F32, ld, transposed: false }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// `C[m,n] = alpha * op(A)[m,k] op(B)[k,n] + beta * C`. A and B are both bf16 or both f32 (then f32 arithmetic, no
/// TF32); C is either and not transposed. With beta 0, C is not read. With a `source`, that matrix, which has C's type and
/// stride, stands for the C on the right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    pub(crate) c: Operand,
    pub(crate) alpha: f32,
    pub(crate) beta: f32,
    pub(crate) source: Option<u64>,
}

impl Gemm {
    /// `C = op(A) op(B)` of sizes `[m, n, k]`.
    pub(crate) fn new([m, n, k]: [usize; 3], a: Operand, b: Operand, c: Operand) -> Self {
        Self { m, n, k, a, b, c, alpha: 1.0, beta: 0.0, source: None }
    }
}

/// Sums over fewer tokens than this are left to the plain kernel: they are bound by writing C, and cuBLASLt's algorithms
/// for them, which are chosen for more, would mostly work on nothing.
const FEW_TOKENS: usize = 32;

/// Sets C to zero row by row: the product over nothing.
fn zero(call: &Gemm) -> Result<(), OpError> {
    let bytes = call.c.dtype.bytes();
    if call.c.ld == call.n {
        return clear(call.c.addr, call.m * call.n * bytes);
    }
    (0..call.m).try_for_each(|row| clear(call.c.addr + (row * call.c.ld * bytes) as u64, call.n * bytes))
}

/// Runs the product on the device's stream, with sums in f32.
///
/// Where A is not transposed, its rows are taken to be tokens: a row of the result has the same bits whatever `m` is
/// and whatever the other rows hold. Where A is transposed, the sum over tokens has a fixed order for each number of
/// them.
///
/// # Errors
/// If types or strides do not fit, or the device failed.
///
/// # Safety
/// The addresses are those of live allocations that hold the matrices; C overlaps neither A nor B, nor, unless it is
/// the same, the source.
pub(crate) unsafe fn gemm(dev: &Cuda, call: &Gemm) -> Result<(), OpError> {
    let width = |o: &Operand, rows: usize, cols: usize| if o.transposed { rows } else { cols };
    let wide = call.a.ld >= width(&call.a, call.m, call.k) && call.b.ld >= width(&call.b, call.k, call.n);
    if call.a.dtype != call.b.dtype || call.c.transposed || call.c.ld < call.n || !wide {
        return Err(OpError::argument("gemm", format!("the operands do not fit together: {call:?}")));
    }
    if call.m == 0 || call.n == 0 {
        return Ok(());
    }
    if call.k == 0 && call.source.is_none() {
        return if call.beta == 0.0 { zero(call) } else { Ok(()) };
    }
    let context = context()?;
    if call.k == 0 || (call.a.transposed && call.k < FEW_TOKENS) || !context.cublaslt {
        // SAFETY: the caller's promise; the list is the kernel's.
        return unsafe { plain(dev, call) };
    }
    let mut lt = context.lt.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // SAFETY: the caller's promise. dfdx's stream is cuBLAS's stream by the same handle.
    if unsafe { lt.run(call, context.device.cu_stream().cast()) }? {
        return Ok(());
    }
    drop(lt);
    // SAFETY: the caller's promise; the list is the kernel's.
    unsafe { plain(dev, call) }
}

/// One thread an element, products summed in order: for shapes that cuBLASLt refuses.
///
/// # Safety
/// As [`gemm`].
pub(super) unsafe fn plain(dev: &Cuda, call: &Gemm) -> Result<(), OpError> {
    let kind = |o: &Operand| Arg::U32(u32::from(o.dtype == Dtype::F32));
    let strides = |o: &Operand| {
        let (row, col) = if o.transposed { (1, o.ld as u64) } else { (o.ld as u64, 1) };
        [Arg::U64(row), Arg::U64(col)]
    };
    let ([a_row, a_col], [b_row, b_col]) = (strides(&call.a), strides(&call.b));
    let args = [
        Arg::Ptr(call.a.addr),
        kind(&call.a),
        a_row,
        a_col,
        Arg::Ptr(call.b.addr),
        b_row,
        b_col,
        Arg::Ptr(call.c.addr),
        kind(&call.c),
        Arg::Ptr(call.source.unwrap_or(call.c.addr)),
        Arg::U64(call.c.ld as u64),
        Arg::U64(call.m as u64),
        Arg::U64(call.n as u64),
        Arg::U64(call.k as u64),
        Arg::F32(call.alpha),
        Arg::F32(call.beta),
    ];
    // SAFETY: the caller's promise; the list is the kernel's.
    unsafe { launch(dev, "anneal_gemm_plain", Grid::over(dev, call.m * call.n, 1), &args) }
}
