//! Large host arrays to the device: copied by all threads into pinned buffers, from which the device fetches by itself.
//!
//! From ordinary memory the driver copies on one thread, a few GB/s; this is bound by the bus or by the host's memory.
//! Unaware of what the bytes are.

use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys;
use rayon::prelude::*;

use super::context::{ask, context};
use crate::OpError;

/// Bytes of a buffer. Two take turns: one is filled while the other is fetched.
const BUFFER: usize = 32 << 20;
/// Bytes that one thread copies at a time.
const PIECE: usize = 1 << 20;
/// Fewer are sent without staging.
pub(super) const LARGE: usize = 4 << 20;

/// Pinned memory, kept for the process's life.
struct Pinned([*mut u8; 2]);

// SAFETY: plain memory, behind a mutex.
unsafe impl Send for Pinned {}

fn pinned() -> Result<Pinned, OpError> {
    let mut buffers = [std::ptr::null_mut::<std::ffi::c_void>(); 2];
    for buffer in &mut buffers {
        // SAFETY: `buffer` may be written.
        ask("pinning host memory", unsafe { sys::cuMemAllocHost_v2(buffer, BUFFER) })?;
    }
    Ok(Pinned(buffers.map(|buffer| buffer.cast())))
}

/// Copies `bytes` to `to`, in stream order. They may be changed right after the call.
///
/// # Errors
/// No memory can be pinned, or the device failed.
///
/// # Safety
/// `to` is the address of a live allocation of at least as many bytes.
pub(super) unsafe fn send(bytes: &[u8], to: u64) -> Result<(), OpError> {
    static STAGING: Mutex<Option<Pinned>> = Mutex::new(None);
    let context = context()?;
    let mut staging = STAGING.lock().unwrap_or_else(PoisonError::into_inner);
    if staging.is_none() {
        *staging = Some(pinned()?);
    }
    let Some(Pinned(buffers)) = &*staging else { return Ok(()) };
    for (i, part) in bytes.chunks(BUFFER).enumerate() {
        // SAFETY: a buffer has `BUFFER` bytes, and nobody else holds it: the lock is held, and the device's last fetch
        // from it ended before the synchronisation of the round before.
        let buffer = unsafe { std::slice::from_raw_parts_mut(buffers[i % 2], part.len()) };
        buffer.par_chunks_mut(PIECE).zip(part.par_chunks(PIECE)).for_each(|(to, from)| to.copy_from_slice(from));
        // The other buffer's fetch, which ran meanwhile, ends here.
        context.device.synchronize().map_err(OpError::driver)?;
        let at = to + (i * BUFFER) as u64;
        // SAFETY: the caller's promise; the buffer stays as it is until the fetch has ended.
        let code =
            unsafe { sys::cuMemcpyHtoDAsync_v2(at, buffer.as_ptr().cast(), part.len(), *context.device.cu_stream()) };
        ask("copying to the GPU", code)?;
    }
    // The next call begins with the first buffer.
    context.device.synchronize().map_err(OpError::driver)
}
