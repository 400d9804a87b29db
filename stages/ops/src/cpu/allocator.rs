//! Tells the C library's allocator to keep the memory that kernels free.
//!
//! glibc maps every buffer above 128 KiB afresh and returns it when freed, and trims what it kept after each backward.
//! Each page is then faulted in and zeroed again: measured here, 1.0 ms for a buffer of 1.2 MB whose addition takes
//! 0.06 ms. Peak memory is the same either way. Unaware of tensors.

/// Lets freed buffers up to 32 MiB (glibc's largest threshold) be used again without asking the system. Idempotent.
pub(crate) fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;
        use std::sync::Once;

        // malloc.h
        const M_TRIM_THRESHOLD: c_int = -1;
        const M_MMAP_THRESHOLD: c_int = -3;
        unsafe extern "C" {
            /// `int mallopt(int param, int value)`; 1 on success.
            fn mallopt(param: c_int, value: c_int) -> c_int;
        }
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: glibc's documented interface, thread-safe, with parameters and values in their range; it changes
            // when memory is returned to the system, nothing else. A refusal (0) only costs speed.
            unsafe {
                mallopt(M_MMAP_THRESHOLD, 32 << 20);
                mallopt(M_TRIM_THRESHOLD, c_int::MAX);
            }
        });
    }
}
