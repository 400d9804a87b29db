//! Most device memory that this process may have in use: an allocation beyond it fails as if there were no more.
//!
//! All allocations, dfdx's too, come through this crate's trampoline of `cuMemAllocAsync` (`libraries.rs`). Without a limit
//! nothing is counted. Unaware of what is allocated.

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use cudarc::driver::sys;

use super::context::{Context, context};
use super::memory::read_counter;

/// Bytes; the largest number stands for no limit.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Sets the limit.
pub(super) fn set(bytes: usize) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// The limit, if there is one.
pub(super) fn get() -> Option<usize> {
    Some(LIMIT.load(Ordering::Relaxed)).filter(|bytes| *bytes < usize::MAX)
}

/// Whether `bytes` more are within `limit`; or what the driver answered instead of counting.
fn fits(context: &Context, bytes: usize, limit: usize) -> Result<bool, sys::CUresult> {
    let mut used = 0;
    match read_counter(context.pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &mut used) {
        sys::CUresult::CUDA_SUCCESS => Ok((used as usize).saturating_add(bytes) <= limit),
        code => Err(code),
    }
}

/// Success if `bytes` more are within the limit. A lost device is not one without memory.
fn within(bytes: usize) -> sys::CUresult {
    let Some(limit) = get() else { return sys::CUresult::CUDA_SUCCESS };
    let Ok(context) = context() else { return sys::CUresult::CUDA_ERROR_INVALID_CONTEXT };
    let asked = fits(context, bytes, limit).and_then(|fit| {
        if fit {
            return Ok(true);
        }
        // What was freed counts until the device has come to it; then the answer does not depend on how far it is.
        context.device.synchronize().map_err(|error| error.0)?;
        fits(context, bytes, limit)
    });
    match asked {
        Ok(true) => sys::CUresult::CUDA_SUCCESS,
        Ok(false) => sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
        Err(code) => code,
    }
}

/// `cuMemAllocAsync(to, bytes, stream)`, within the limit.
extern "C" fn allocate(to: *mut u64, bytes: usize, stream: *mut c_void) -> u32 {
    match within(bytes) {
        sys::CUresult::CUDA_SUCCESS => {}
        code => return code as u32,
    }
    // SAFETY: REAL was set, to the function of this signature, before this function's address was given out; the
    // arguments are the caller's.
    unsafe {
        let real: extern "C" fn(*mut u64, usize, *mut c_void) -> u32 =
            std::mem::transmute(REAL.load(Ordering::Acquire));
        real(to, bytes, stream)
    }
}

/// What stands in for the driver's `cuMemAllocAsync`, which `real` is.
pub(super) fn interpose(real: *mut c_void) -> *mut c_void {
    REAL.store(real, Ordering::Release);
    allocate as *mut c_void
}
