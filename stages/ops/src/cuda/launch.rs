//! The crate's kernels: loaded once from what the build embedded, found by name, launched on the one stream.
//! Unaware of what they compute.

use std::collections::hash_map::Entry;
use std::ffi::{CString, c_void};

use cudarc::driver::{result, sys};
use dfdx::prelude::Cuda;

use super::context::{Context, ask, context, describe};
use crate::OpError;

/// Machine code at the alignment that the driver's loader wants.
#[repr(C, align(64))]
struct Aligned<B: ?Sized>(B);

// `FATBINS: &[(name of the .cu file, image)]` and `ARCHITECTURES: &str`.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Whether this build has machine code for an architecture, as `ANNEAL_CUDA_ARCHS` names it.
pub(super) fn built_for(architecture: &str) -> bool {
    ARCHITECTURES.split([' ', ',']).any(|built| built == architecture)
}

/// Loads every `.cu` file's kernels into the current context: its name and the module. `gpu` is the device's name, for
/// the error.
pub(super) fn load(gpu: &str) -> Result<Vec<(&'static str, sys::CUmodule)>, OpError> {
    let load = |(file, image): &(&'static str, &Aligned<[u8]>)| {
        // SAFETY: the image is a whole fatbin, as nvcc wrote it, and lives as long as the program.
        let loaded = unsafe { result::module::load_data(image.0.as_ptr().cast()) };
        loaded.map(|module| (*file, module)).map_err(|error| OpError::DeviceUnusable {
            message: format!(
                "the kernels of `{file}` do not load on {gpu}: {}; this build has {ARCHITECTURES} (build with \
                 ANNEAL_CUDA_ARCHS set to this GPU's, or with an older CUDA toolkit for an older driver)",
                describe(error.0)
            ),
        })
    };
    FATBINS.iter().map(load).collect()
}

/// A kernel and how much dynamic shared memory it was allowed so far.
pub(super) struct Function {
    handle: sys::CUfunction,
    shared: u32,
}

// SAFETY: a handle that the driver lets any thread use.
unsafe impl Send for Function {}

/// One kernel argument.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    /// Any device pointer.
    Ptr(u64),
    U32(u32),
    I32(i32),
    U64(u64),
    F32(f32),
}

impl Arg {
    /// Where the value lies.
    fn place(&self) -> *mut c_void {
        match self {
            Self::Ptr(v) | Self::U64(v) => (&raw const *v).cast_mut().cast(),
            Self::U32(v) => (&raw const *v).cast_mut().cast(),
            Self::I32(v) => (&raw const *v).cast_mut().cast(),
            Self::F32(v) => (&raw const *v).cast_mut().cast(),
        }
    }
}

/// Blocks, threads of one block, bytes of dynamic shared memory (any number that the device has; more than 48 KiB is
/// opted into here).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) blocks: (u32, u32, u32),
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
}

impl Grid {
    /// Enough blocks of 256 threads for a loop over `n` elements in a grid's strides; each thread handles `each`.
    pub(crate) fn over(dev: &Cuda, n: usize, each: usize) -> Self {
        let wanted = n.div_ceil(256 * each.max(1)).max(1);
        // 16 blocks a multiprocessor hide the tail; more only add launches' work.
        let most = super::multiprocessors(dev) as usize * 16;
        Self { blocks: (wanted.min(most) as u32, 1, 1), threads: 256, shared_bytes: 0 }
    }
}

fn no_kernel(name: &str) -> OpError {
    OpError::Device { message: format!("no kernel `{name}`: it must be in a `.cu` file that its name begins with") }
}

/// Which of `files` holds a kernel: the longest such that the kernel is `anneal_<file>` or `anneal_<file>_...`.
fn file_of<'a>(kernel: &str, files: impl Iterator<Item = &'a str>) -> Option<usize> {
    let rest = kernel.strip_prefix("anneal_")?;
    let holds = |file: &str| rest.strip_prefix(file).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    let (at, _) = files.enumerate().filter(|(_, file)| holds(file)).max_by_key(|(_, file)| file.len())?;
    Some(at)
}

fn find(context: &Context, name: &'static str, shared: u32) -> Result<sys::CUfunction, OpError> {
    let mut functions = context.functions.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let function = match functions.entry(name) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => {
            let text = CString::new(name).map_err(OpError::device)?;
            let files = context.modules.iter().map(|(file, _)| *file);
            let (_, module) = file_of(name, files).map(|at| &context.modules[at]).ok_or_else(|| no_kernel(name))?;
            // SAFETY: the module was loaded and is never unloaded.
            let handle = unsafe { result::module::get_function(*module, text) }.map_err(|_| no_kernel(name))?;
            entry.insert(Function { handle, shared: 48 * 1024 })
        }
    };
    if shared > function.shared {
        if shared > context.shared_limit {
            let message = format!("{name} wants {shared} bytes of shared memory; a block has {}", context.shared_limit);
            return Err(OpError::Device { message });
        }
        let what = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the handle is a kernel's.
        ask(name, unsafe { sys::cuFuncSetAttribute(function.handle, what, shared as i32) })?;
        function.shared = shared;
    }
    Ok(function.handle)
}

/// Launches `name` on the device's stream and returns at once. A grid without blocks is not launched.
///
/// # Errors
/// If there is no such kernel, or the device failed, in this call or in earlier work.
///
/// # Safety
/// `args` must be the kernel's parameters, in number, order and size, and every pointer in them the address of a live
/// allocation of at least what the kernel reads and writes there. The allocations may be dropped right after the call:
/// they are freed in stream order.
pub(crate) unsafe fn launch(_: &Cuda, name: &'static str, grid: Grid, args: &[Arg]) -> Result<(), OpError> {
    // SAFETY: the caller's promise.
    unsafe { submit(name, grid, args, false) }
}

/// As [`launch`]; where the device can, the kernel begins as soon as all blocks of the kernel ahead of it have said
/// `next_may_begin` or ended, and gets by itself to where it says `await_earlier`.
///
/// # Errors
/// As [`launch`].
///
/// # Safety
/// As [`launch`]. Besides, every thread of the kernel says `await_earlier`, and before it reads only what was written
/// before the last kernel on the stream that was launched by [`launch`], and writes nothing.
pub(crate) unsafe fn launch_early(_: &Cuda, name: &'static str, grid: Grid, args: &[Arg]) -> Result<(), OpError> {
    // SAFETY: the caller's promise.
    unsafe { submit(name, grid, args, true) }
}

/// # Safety
/// As [`launch`], or [`launch_early`] if `early`.
unsafe fn submit(name: &'static str, grid: Grid, args: &[Arg], early: bool) -> Result<(), OpError> {
    let (x, y, z) = grid.blocks;
    if x == 0 || y == 0 || z == 0 {
        return Ok(());
    }
    let context = context()?;
    let function = find(context, name, grid.shared_bytes)?;
    let mut places: Vec<*mut c_void> = args.iter().map(Arg::place).collect();
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: grid.threads,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: grid.shared_bytes,
        hStream: *context.device.cu_stream(),
        attrs: &raw mut attribute,
        numAttrs: 1,
    };
    // SAFETY: the caller vouches for the arguments; `places` point into `args`, which the driver copies in this call, as
    // it does the configuration.
    let code = unsafe {
        if early && context.early {
            sys::cuLaunchKernelEx(&raw const config, function, places.as_mut_ptr(), std::ptr::null_mut())
        } else {
            let (threads, shared, stream) = (grid.threads, grid.shared_bytes, config.hStream);
            let none = std::ptr::null_mut();
            sys::cuLaunchKernel(function, x, y, z, threads, 1, 1, shared, stream, places.as_mut_ptr(), none)
        }
    };
    ask(name, code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_name_says_its_file() {
        let of = |kernel| file_of(kernel, ["add", "rms_norm", "rms", "linear"].into_iter());
        assert_eq!((of("anneal_add"), of("anneal_add_accumulate"), of("anneal_adding")), (Some(0), Some(0), None));
        assert_eq!((of("anneal_rms_norm_forward_1"), of("anneal_rms_x"), of("linear_round")), (Some(1), Some(2), None));
        assert!(FATBINS.iter().any(|(file, image)| *file == "linear" && !image.0.is_empty()));
    }
}
