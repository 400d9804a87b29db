//! Most device memory that this process may have in use: an allocation beyond it fails as if there were no more.
//!
//! All allocations, dfdx's too, come through this crate's trampoline of `cuMemAllocAsync` (`libraries.rs`). Without a limit
//! nothing is counted. Unaware of what is allocated.

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use cudarc::driver::sys;

use super::context::context;
use super::memory::counter;

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

fn fits(bytes: usize, limit: usize) -> bool {
    let used = counter(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
    used.is_ok_and(|used| used.saturating_add(bytes) <= limit)
}

/// `cuMemAllocAsync(to, bytes, stream)`, within the limit.
extern "C" fn allocate(to: *mut u64, bytes: usize, stream: *mut c_void) -> u32 {
    if let Some(limit) = get()
        && !fits(bytes, limit)
    {
        // What was freed counts until the device has come to it; then the answer does not depend on how far it is.
        let waited = context().is_ok_and(|context| context.device.synchronize().is_ok());
        if !waited || !fits(bytes, limit) {
            return sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32;
        }
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
