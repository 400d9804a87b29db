//! Device memory that dfdx need not clear: its allocations are followed by a memset that kernels overwrite anyway.
//!
//! dfdx zeroes every tensor and every gradient that it allocates, which costs a third of the traffic of an elementwise
//! op. Its memset comes through this crate's own trampoline (`libraries.rs`), which leaves it out while a thread says so.
//! Unaware of what is allocated.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What to do with the memsets of this thread.
#[derive(Clone, Copy, PartialEq)]
enum Clearing {
    /// As asked.
    Done,
    /// Leave them out.
    LeftOut {
        /// Whether one was.
        any: bool,
    },
}

thread_local! {
    static CLEARING: Cell<Clearing> = const { Cell::new(Clearing::Done) };
}

/// Ends leaving out, also when `allocate` panics.
struct Until(Clearing);

impl Drop for Until {
    fn drop(&mut self) {
        CLEARING.set(self.0);
    }
}

/// Runs `allocate` with memsets left out; whether there was one.
pub(super) fn unwritten<R>(allocate: impl FnOnce() -> R) -> (R, bool) {
    let _until = Until(CLEARING.replace(Clearing::LeftOut { any: false }));
    let made = allocate();
    (made, CLEARING.get() == Clearing::LeftOut { any: true })
}

static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// `cuMemsetD8Async(address, value, bytes, stream)`, or nothing.
extern "C" fn memset(to: u64, value: u8, bytes: usize, stream: *mut c_void) -> u32 {
    if bytes > 0 && CLEARING.get() != Clearing::Done {
        CLEARING.set(Clearing::LeftOut { any: true });
        return 0;
    }
    // SAFETY: REAL was set, to the function of this signature, before this function's address was given out.
    unsafe {
        let real: extern "C" fn(u64, u8, usize, *mut c_void) -> u32 = std::mem::transmute(REAL.load(Ordering::Acquire));
        real(to, value, bytes, stream)
    }
}

/// What stands in for the driver's `cuMemsetD8Async`, which `real` is.
pub(super) fn interpose(real: *mut c_void) -> *mut c_void {
    REAL.store(real, Ordering::Release);
    memset as *mut c_void
}
