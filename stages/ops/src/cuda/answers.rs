//! What the driver answers, as cudarc can take it: every code one that it knows, and success where it would panic.
//!
//! The driver's functions come through here on their way into a trampoline (`libraries.rs`). Unaware of what is asked.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// CUDA_ERROR_UNKNOWN.
const UNKNOWN: u32 = 999;

/// The last code that cudarc does not list.
static UNLISTED: AtomicU32 = AtomicU32::new(0);
/// The first error of a wait that was answered with success.
static OWED: AtomicU32 = AtomicU32::new(0);

/// The code itself if cudarc 0.9.15's enumeration, built for an older CUDA, has it: any other, such as
/// CUDA_ERROR_CONTAINED (226), would be no value of that type.
fn listed(code: u32) -> u32 {
    match code {
        0..=8 | 34 | 46 | 100..=102 | 200..=202 | 205..=224 | 300..=304 | 400 | 401 | 500 | 600 => code,
        700..=705 | 708..=720 | 800..=810 | 900..=912 | UNKNOWN => code,
        _ => {
            UNLISTED.store(code, Ordering::Relaxed);
            UNKNOWN
        }
    }
}

/// What stood behind the last CUDA_ERROR_UNKNOWN, if the driver said more than cudarc knows.
pub(super) fn unlisted() -> Option<u32> {
    Some(UNLISTED.load(Ordering::Relaxed)).filter(|code| *code != 0)
}

/// Of functions that give something back. cudarc unwraps their results in `drop`, so after a GPU error, which every later
/// call repeats, a program would panic (and abort, if it unwinds) instead of reporting what happened. What they give back
/// is gone with the failed context anyway, and the next call that matters reports the error again.
fn forgiven(_: u32) -> u32 {
    0
}

/// Of waits between streams, which cudarc's streams begin in `drop`. An error that only they had is owed.
fn postponed(code: u32) -> u32 {
    owe(&OWED, code);
    0
}

/// Of functions after which nothing may be under way: with what is owed.
fn settled(code: u32) -> u32 {
    pay(&OWED, code)
}

/// Keeps the first error.
fn owe(owed: &AtomicU32, code: u32) {
    let _ = owed.compare_exchange(0, listed(code), Ordering::Relaxed, Ordering::Relaxed);
}

/// An error of its own comes first; what is owed is told once.
fn pay(owed: &AtomicU32, code: u32) -> u32 {
    if code == 0 { owed.swap(0, Ordering::Relaxed) } else { listed(code) }
}

/// `cuLaunchKernel`, which has more arguments than registers hold.
mod launch {
    use super::{AtomicPtr, Ordering, c_void, listed};

    pub(super) static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

    type Launch = extern "C" fn(usize, u32, u32, u32, u32, u32, u32, u32, usize, usize, usize) -> u32;

    pub(super) extern "C" fn call(
        function: usize,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        shared: u32,
        stream: usize,
        arguments: usize,
        extra: usize,
    ) -> u32 {
        // SAFETY: REAL was set, to the function of this signature, before this function's address was given out; the
        // arguments are the caller's.
        listed(unsafe {
            let real: Launch = std::mem::transmute(REAL.load(Ordering::Acquire));
            real(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, arguments, extra)
        })
    }
}

/// Defines what stands in for functions of at most six integers or pointers, by what becomes of their answers.
macro_rules! answers {
    ($($manner:ident: $($name:ident)*;)*) => {
        /// What stands in for the function of this name, which `real` is.
        pub(super) fn stand_in(name: &CStr, real: *mut c_void) -> *mut c_void {
            match name.to_bytes() {
                $($(name if name == stringify!($name).as_bytes() => {
                    static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
                    extern "C" fn call(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> u32 {
                        // SAFETY: all of these take at most six integers or pointers, which C passes in registers;
                        // those too many are ignored. REAL was set before this function's address was given out.
                        $manner(unsafe {
                            let real: extern "C" fn(usize, usize, usize, usize, usize, usize) -> u32 =
                                std::mem::transmute(REAL.load(Ordering::Acquire));
                            real(a, b, c, d, e, f)
                        })
                    }
                    REAL.store(real, Ordering::Release);
                    call as *mut c_void
                })*)*
                b"cuLaunchKernel" => {
                    launch::REAL.store(real, Ordering::Release);
                    launch::call as *mut c_void
                }
                _ => real,
            }
        }
    };
}

answers! {
    forgiven: cuCtxSetCurrent cuMemFreeAsync cuMemFree_v2 cuEventDestroy_v2 cuStreamDestroy_v2 cuModuleUnload
        cuDevicePrimaryCtxRelease_v2 cublasDestroy_v2;
    postponed: cuEventRecord cuStreamWaitEvent;
    settled: cuStreamSynchronize;
    listed: cuCtxGetCurrent cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool cuDeviceGetName
        cuDevicePrimaryCtxRetain cuDeviceTotalMem_v2 cuDriverGetVersion cuEventCreate cuEventElapsedTime
        cuFuncSetAttribute cuInit cuLaunchKernelEx cuMemAllocAsync cuMemAllocHost_v2 cuMemAlloc_v2 cuMemGetInfo_v2
        cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemPoolTrimTo cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2
        cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemsetD8Async cuMemsetD8_v2
        cuModuleGetFunction cuModuleLoad cuModuleLoadData cuStreamCreate;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_wait_is_told_once_and_unknown_codes_keep_their_number() {
        assert_eq!([0, 2, 214, 719, 999].map(listed), [0, 2, 214, 719, 999]);
        assert_eq!((listed(226), unlisted()), (UNKNOWN, Some(226)));
        // Not the process's own: other tests wait for the device meanwhile.
        let owed = AtomicU32::new(0);
        owe(&owed, 0);
        assert_eq!(pay(&owed, 0), 0);
        owe(&owed, 400);
        owe(&owed, 214);
        assert_eq!([0, 0, 700].map(|code| pay(&owed, code)), [400, 0, 700]);
    }
}
