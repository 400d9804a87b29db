//! cuBLASLt: descriptors, one algorithm for each kind of product, the workspace. Column-major inside, as cuBLAS counts.
//!
//! The algorithm is asked for once, at a canonical number of tokens, and then used for every number: what a row of the
//! result is does not depend on how many rows there are, nor on what else was in the batch. Unaware of tensors.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulDescAttributes_t as DescAttribute, cublasLtMatmulPreferenceAttributes_t as PrefAttribute,
    cublasLtReductionScheme_t as Reduction, cublasStatus_t as Status,
};
use cudarc::driver::{self, CudaDevice, CudaSlice, DevicePtr};

use super::context::describe as in_words;
use super::gemm::{Dtype, Gemm, Operand};
use crate::OpError;

/// Tokens for which algorithms are chosen.
const CANONICAL: usize = 4096;
/// Tokens from which a sum over them may be cut into parts.
const CUT_FROM: usize = 1024;
/// Tokens for which algorithms are chosen where there are fewer.
const FEW: usize = 512;
/// Bytes of workspace. cuBLAS itself takes 32 MiB on Hopper.
const WORKSPACE: usize = 64 << 20;

/// What an algorithm is chosen by. Where A is not transposed, its rows are tokens and `free` sizes are (n, k); where it
/// is, tokens are summed over (a weight's gradient) and they are (m, n).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    sizes: (usize, usize),
    types: (Dtype, Dtype),
    transposed: (bool, bool),
    strides: [usize; 3],
    alignments: [u32; 4],
    /// Whether the sum is long enough to be cut.
    many: bool,
}

/// A description of a product, destroyed when dropped.
struct Desc(sys::cublasLtMatmulDesc_t);

impl Drop for Desc {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// What an algorithm has to heed, destroyed when dropped.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

struct Plan {
    desc: Desc,
    algo: Option<sys::cublasLtMatmulAlgo_t>,
}

/// The library's handle and what was chosen so far. Never dropped.
pub(super) struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    plans: HashMap<Key, Plan>,
}

// SAFETY: the handle and descriptors are heap objects without thread affinity, behind a mutex.
unsafe impl Send for Lt {}

/// What cuBLASLt's status means. Of a GPU that was lost it says only that something failed; the driver repeats what it was.
fn failed(what: &str, error: CublasError) -> OpError {
    if error.0 == Status::CUBLAS_STATUS_ALLOC_FAILED {
        return OpError::OutOfMemory { bytes: None };
    }
    let message = format!("cuBLASLt, {what}: {:?}", error.0);
    // SAFETY: every context has a null stream.
    match unsafe { driver::sys::cuStreamSynchronize(std::ptr::null_mut()) } {
        driver::sys::CUresult::CUDA_SUCCESS => OpError::Device { message },
        code => OpError::Device { message: format!("{message}, {}", in_words(code)) },
    }
}

fn data_type(dtype: Dtype) -> sys::cudaDataType {
    match dtype {
        Dtype::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        Dtype::F32 => sys::cudaDataType_t::CUDA_R_32F,
    }
}

/// A matrix layout, destroyed when dropped.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(dtype: Dtype, rows: usize, cols: usize, ld: usize) -> Result<Self, OpError> {
        let layout = result::create_matrix_layout(data_type(dtype), rows as u64, cols as u64, ld as i64);
        layout.map(Self).map_err(|error| failed("layout", error))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// The layouts of B, A and C as column-major matrices: C^T = B^T A^T, so B comes first.
fn layouts(call: &Gemm, m: usize, k: usize) -> Result<[Layout; 3], OpError> {
    let stored = |o: &Operand, rows: usize, cols: usize| {
        // Row-major [rows, cols] is column-major [cols, rows].
        let (rows, cols) = if o.transposed { (cols, rows) } else { (rows, cols) };
        Layout::new(o.dtype, cols, rows, o.ld)
    };
    Ok([stored(&call.b, k, call.n)?, stored(&call.a, m, k)?, stored(&call.c, m, call.n)?])
}

fn attribute<T>(set: impl FnOnce(*const c_void, usize) -> Result<(), CublasError>, value: T) -> Result<(), OpError> {
    set((&raw const value).cast(), size_of::<T>()).map_err(|error| failed("attribute", error))
}

fn describe(call: &Gemm) -> Result<Desc, OpError> {
    let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
    let desc = result::create_matmul_desc(compute, scale).map_err(|error| failed("description", error)).map(Desc)?;
    for (which, operand) in
        [(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &call.b), (DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, &call.a)]
    {
        let op = i32::from(operand.transposed);
        // SAFETY: these attributes are 32-bit operations: 0 none, 1 transposed.
        attribute(|at, size| unsafe { result::set_matmul_desc_attribute(desc.0, which, at, size) }, op)?;
    }
    Ok(desc)
}

/// Alignment of an address that an algorithm may rely on.
fn alignment(addr: u64) -> u32 {
    1 << addr.trailing_zeros().min(4)
}

/// Of A, B, the source and C.
fn alignments(call: &Gemm) -> [u32; 4] {
    [call.a.addr, call.b.addr, call.source.unwrap_or(call.c.addr), call.c.addr].map(alignment)
}

impl Lt {
    pub(super) fn new(device: &Arc<CudaDevice>) -> Result<Self, OpError> {
        let handle = result::create_handle().map_err(|error| failed("start", error))?;
        // SAFETY: cuBLASLt writes its workspace before reading it.
        let workspace = unsafe { device.alloc(WORKSPACE) }.map_err(OpError::driver)?;
        Ok(Self { handle, workspace, plans: HashMap::new() })
    }

    /// The best algorithm for `call` with these sizes, or none.
    fn choose(
        &self,
        call: &Gemm,
        desc: &Desc,
        m: usize,
        k: usize,
    ) -> Result<Option<sys::cublasLtMatmulAlgo_t>, OpError> {
        let [b, a, c] = layouts(call, m, k)?;
        let pref = result::create_matmul_pref().map_err(|error| failed("preference", error)).map(Preference)?;
        // A product over many tokens may be cut into parts that are added in a fixed order; others never. An algorithm
        // that cuts is wrong, not refused, where a part is left without tokens (seen: 1 token, a third of the result).
        let reduction = if call.a.transposed && k >= CUT_FROM {
            Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
        } else {
            Reduction::CUBLASLT_REDUCTION_SCHEME_NONE
        };
        let [a_bytes, b_bytes, source_bytes, c_bytes] = alignments(call);
        let numbers = [
            (PrefAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction as u32),
            (PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b_bytes),
            (PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a_bytes),
            (PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, source_bytes),
            (PrefAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c_bytes),
        ];
        for (which, value) in numbers {
            // SAFETY: these attributes are u32.
            attribute(|at, size| unsafe { result::set_matmul_pref_attribute(pref.0, which, at, size) }, value)?;
        }
        let which = PrefAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: this attribute is a size_t.
        attribute(|at, size| unsafe { result::set_matmul_pref_attribute(pref.0, which, at, size) }, WORKSPACE)?;
        let found = result::get_matmul_algo_heuristic(self.handle, desc.0, b.0, a.0, c.0, c.0, pref.0);
        match found {
            Ok(found) => Ok(Some(found.algo)),
            Err(CublasError(Status::CUBLAS_STATUS_NOT_SUPPORTED | Status::CUBLAS_STATUS_INVALID_VALUE)) => Ok(None),
            Err(error) => Err(failed("choice of an algorithm", error)),
        }
    }

    /// # Safety
    /// As [`super::gemm::gemm`].
    unsafe fn multiply(
        &self,
        call: &Gemm,
        desc: &Desc,
        algo: &sys::cublasLtMatmulAlgo_t,
        stream: sys::cudaStream_t,
    ) -> Result<(), CublasError> {
        let invalid = CublasError(Status::CUBLAS_STATUS_INVALID_VALUE);
        let [b, a, c] = layouts(call, call.m, call.k).map_err(|_| invalid)?;
        // SAFETY: layouts describe what the caller vouches for; the workspace is used by one product at a time, because
        // all are on one stream.
        unsafe {
            result::matmul(
                self.handle,
                desc.0,
                (&raw const call.alpha).cast(),
                (&raw const call.beta).cast(),
                call.b.addr as *const c_void,
                b.0,
                call.a.addr as *const c_void,
                a.0,
                call.source.unwrap_or(call.c.addr) as *const c_void,
                c.0,
                call.c.addr as *mut c_void,
                c.0,
                algo,
                *self.workspace.device_ptr() as *mut c_void,
                WORKSPACE,
                stream,
            )
        }
    }

    /// Runs the product; false if cuBLASLt has nothing for it.
    ///
    /// # Safety
    /// As [`super::gemm::gemm`].
    pub(super) unsafe fn run(&mut self, call: &Gemm, stream: sys::cudaStream_t) -> Result<bool, OpError> {
        let key = Key {
            sizes: if call.a.transposed { (call.m, call.n) } else { (call.n, call.k) },
            types: (call.a.dtype, call.c.dtype),
            transposed: (call.a.transposed, call.b.transposed),
            strides: [call.a.ld, call.b.ld, call.c.ld],
            alignments: alignments(call),
            many: call.k >= CUT_FROM,
        };
        if !self.plans.contains_key(&key) {
            let desc = describe(call)?;
            let (m, k) = match call.a.transposed {
                false => (CANONICAL, call.k),
                true if call.k >= CUT_FROM => (call.m, CANONICAL),
                true => (call.m, FEW),
            };
            let algo = self.choose(call, &desc, m, k)?;
            self.plans.insert(key, Plan { desc, algo });
        }
        let Some(plan) = self.plans.get(&key) else { return Ok(false) };
        let attempt = |algo: Option<sys::cublasLtMatmulAlgo_t>| {
            let Some(algo) = algo else { return Ok(false) };
            // SAFETY: the caller's promise.
            match unsafe { self.multiply(call, &plan.desc, &algo, stream) } {
                Ok(()) => Ok(true),
                Err(CublasError(Status::CUBLAS_STATUS_NOT_SUPPORTED | Status::CUBLAS_STATUS_INVALID_VALUE)) => {
                    Ok(false)
                }
                Err(error) => Err(failed("product", error)),
            }
        };
        // An algorithm chosen for many tokens may refuse very few: then one is chosen for exactly these.
        Ok(attempt(plan.algo)? || attempt(self.choose(call, &plan.desc, call.m, call.k)?)?)
    }
}
