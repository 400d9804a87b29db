//! The process's one GPU: found, judged and opened without a panic; its stream, memory pool and matrix library.
//!
//! cudarc and dfdx unwrap where there is no driver or device, so everything that can be missing is asked first.
//! Unaware of tensors and ops.

use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, OnceLock};

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{CudaDevice, sys};
use dfdx::prelude::Cuda;

use super::launch::Function;
use super::libraries::{CUBLAS, CUBLASLT, DRIVER, present};
use super::lt::Lt;
use crate::{Category, OpError};

/// What this process holds of its GPU. Made once, never dropped.
pub(super) struct Context {
    pub(super) device: Arc<CudaDevice>,
    pub(super) pool: sys::CUmemoryPool,
    pub(super) multiprocessors: u32,
    /// Bytes of dynamic shared memory that a block may opt into.
    pub(super) shared_limit: u32,
    /// Whether a kernel may begin before the one ahead of it has ended: compute capability 9.0 or later.
    pub(super) early: bool,
    /// Whether kernels of whole warpgroups' products may run: compute capability 9.0, and built for it.
    pub(super) warpgroups: bool,
    /// Whether products go through cuBLASLt where it takes them.
    pub(super) cublaslt: bool,
    /// Name of the `.cu` file and its kernels.
    pub(super) modules: Vec<(&'static str, sys::CUmodule)>,
    pub(super) functions: Mutex<HashMap<&'static str, Function>>,
    pub(super) lt: Mutex<Lt>,
}

// SAFETY: the pool's and modules' handles are pointers that the driver lets any thread use; the rest says so itself.
unsafe impl Send for Context {}
// SAFETY: as above; what changes is behind a mutex.
unsafe impl Sync for Context {}

/// The code's name and the driver's words for it.
pub(crate) fn describe(code: sys::CUresult) -> String {
    let mut words = std::ptr::null();
    // SAFETY: `words` may be written; the driver gives back null or a static C string.
    let known = unsafe { sys::cuGetErrorString(code, &mut words) } == sys::CUresult::CUDA_SUCCESS && !words.is_null();
    // SAFETY: see above.
    let words = if known { unsafe { CStr::from_ptr(words) }.to_string_lossy() } else { "no driver".into() };
    match super::answers::unlisted().filter(|_| code == sys::CUresult::CUDA_ERROR_UNKNOWN) {
        Some(number) => format!("{code:?} ({words}; the driver's code is {number})"),
        None => format!("{code:?} ({words})"),
    }
}

/// Turns a driver's answer into a result; `what` was being done.
pub(super) fn ask(what: &str, code: sys::CUresult) -> Result<(), OpError> {
    match code {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(OpError::OutOfMemory { bytes: None }),
        code => Err(OpError::Device { message: format!("{what}: {}", describe(code)) }),
    }
}

fn unusable(message: String) -> OpError {
    OpError::DeviceUnusable { message }
}

fn attribute(device: sys::CUdevice, attribute: Attribute) -> Result<i32, OpError> {
    let mut value = 0;
    // SAFETY: `value` may be written, `device` came from cuDeviceGet.
    ask("reading a property of the GPU", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
    Ok(value)
}

fn capability(device: sys::CUdevice) -> Result<(i32, i32), OpError> {
    let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    Ok((major, attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?))
}

/// Whether a fast way is not switched off: `NAME=0` has a slower one take its place, for comparisons and for tools that
/// cannot follow the fast one.
fn wanted(name: &str) -> bool {
    std::env::var_os(name).is_none_or(|value| value != "0")
}

fn visible() -> String {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) => format!("; CUDA_VISIBLE_DEVICES is `{list}`"),
        Err(_) => String::new(),
    }
}

/// Initialises the driver and finds the device, or says what is missing.
fn find() -> Result<sys::CUdevice, OpError> {
    present(DRIVER).map_err(|name| {
        unusable(format!("{name} is not installed here: run on a machine with an NVIDIA GPU, or with `--device cpu`"))
    })?;
    // SAFETY: no preconditions.
    let code = unsafe { sys::cuInit(0) };
    if code != sys::CUresult::CUDA_SUCCESS {
        let advice = "check with `nvidia-smi` that the driver sees a GPU and that this user may use it";
        return Err(unusable(format!("the NVIDIA driver does not start: {}; {advice}{}", describe(code), visible())));
    }
    let mut count = 0;
    // SAFETY: `count` may be written.
    ask("counting GPUs", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    if count == 0 {
        return Err(unusable(format!("the NVIDIA driver shows no GPU to this process{}", visible())));
    }
    let mut device = 0;
    // SAFETY: `device` may be written; there is a device 0.
    ask("taking GPU 0", unsafe { sys::cuDeviceGet(&mut device, 0) })?;
    Ok(device)
}

/// Name of a device.
fn name(device: sys::CUdevice) -> String {
    let mut name = [0u8; 256];
    // SAFETY: the buffer has the length given; the driver ends the name with a zero.
    let code = unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), 255, device) };
    let text = CStr::from_bytes_until_nul(&name).map(CStr::to_string_lossy).unwrap_or_default();
    if code == sys::CUresult::CUDA_SUCCESS { text.into_owned() } else { "GPU 0".to_string() }
}

/// Refuses what the kernels or the libraries cannot run on.
fn judge(device: sys::CUdevice) -> Result<(), OpError> {
    let (major, minor) = capability(device)?;
    if major < 8 {
        let need = "bf16 on tensor cores needs 8.0 (Ampere) or later";
        return Err(unusable(format!("{} has compute capability {major}.{minor}: {need}", name(device))));
    }
    if attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0 {
        return Err(unusable(format!("{} has no memory pools here: a newer driver may have them", name(device))));
    }
    for library in [CUBLAS, CUBLASLT] {
        present(library).map_err(|name| {
            let advice = "install the CUDA toolkit's libraries or name their folder in LD_LIBRARY_PATH";
            unusable(format!("{name} was not found: {advice}"))
        })?;
    }
    let mut driver = 0;
    // SAFETY: `driver` may be written.
    ask("reading the driver's version", unsafe { sys::cuDriverGetVersion(&mut driver) })?;
    // SAFETY: no preconditions.
    let library = unsafe { cudarc::cublaslt::sys::cublasLtGetCudartVersion() };
    if driver as usize / 1000 < library / 1000 {
        let say = |version: usize| format!("{}.{}", version / 1000, version % 1000 / 10);
        let (driver, library) = (say(driver as usize), say(library));
        let advice = "update the driver, or put an older cuBLAS first in LD_LIBRARY_PATH";
        return Err(unusable(format!(
            "the driver supports CUDA {driver}, but cuBLASLt is of CUDA {library}: {advice}"
        )));
    }
    Ok(())
}

fn make() -> Result<Context, OpError> {
    let handle = find()?;
    judge(handle)?;
    // dfdx opens the same primary context and works on the same stream.
    let device = CudaDevice::new(0).map_err(|error| match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => OpError::OutOfMemory { bytes: None },
        code => unusable(format!("{} cannot be opened: {}", name(handle), describe(code))),
    })?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: `pool` may be written, `handle` came from cuDeviceGet.
    ask("finding the memory pool", unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, handle) })?;
    // Memory that was freed stays with the process: giving it back and getting it again costs milliseconds a step.
    let mut keep = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a u64, which `keep` is.
    let code = unsafe { sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast()) };
    ask("setting up the memory pool", code)?;
    let count = attribute(handle, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let shared = attribute(handle, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
    Ok(Context {
        pool,
        multiprocessors: count.unsigned_abs(),
        shared_limit: shared.unsigned_abs(),
        early: wanted("ANNEAL_OVERLAP") && capability(handle)? >= (9, 0),
        warpgroups: wanted("ANNEAL_WGMMA") && capability(handle)? == (9, 0) && super::launch::built_for("90a"),
        cublaslt: wanted("ANNEAL_CUBLASLT"),
        modules: super::launch::load(&name(handle))?,
        functions: Mutex::default(),
        lt: Mutex::new(Lt::new(&device)?),
        device,
    })
}

/// The context, bound to the calling thread.
pub(super) fn context() -> Result<&'static Context, OpError> {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    if CONTEXT.get().is_none() {
        let _one = MAKING.lock();
        if CONTEXT.get().is_none() {
            let _ = CONTEXT.set(make()?);
        }
    }
    let Some(context) = CONTEXT.get() else { return Err(unusable("the GPU was not opened".to_string())) };
    context.device.bind_to_thread().map_err(|error| OpError::Device { message: describe(error.0) })?;
    Ok(context)
}

/// Opens the device, or says what is missing and what to do.
///
/// # Errors
/// [`OpError::DeviceUnusable`] without driver, libraries, device or kernels for it; [`OpError::Lacking`] where other
/// processes have taken all of its memory.
pub(crate) fn open() -> Result<Cuda, OpError> {
    let opened = context().and_then(|_| Cuda::try_build(0, 0).map_err(OpError::device));
    opened.map_err(|error| error.lacking(Category::Workspace))
}

/// PCI address of the open device, as NVIDIA's tools write it: `00000000:1B:00.0`. Opens it if need be.
///
/// # Errors
/// As [`open`].
pub fn bus_id() -> Result<String, OpError> {
    let device = *context()?.device.cu_device();
    let domain = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
    let bus = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
    let slot = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
    Ok(format!("{domain:08X}:{bus:02X}:{slot:02X}.0"))
}

/// Number of multiprocessors of the device.
pub(crate) fn multiprocessors(_: &Cuda) -> u32 {
    // A `Cuda` is only made by `open`, which made the context.
    context().map_or(1, |context| context.multiprocessors)
}

/// Bytes of dynamic shared memory that a block may have.
pub(crate) fn shared_limit(_: &Cuda) -> u32 {
    context().map_or(0, |context| context.shared_limit)
}

/// Whether kernels of whole warpgroups' products may run.
pub(crate) fn warpgroup_products(_: &Cuda) -> bool {
    context().is_ok_and(|context| context.warpgroups)
}
