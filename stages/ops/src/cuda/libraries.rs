//! NVIDIA's libraries by name at run time: every function that cudarc calls is defined here, as a trampoline.
//!
//! cudarc asks the linker for libcuda, libcublas, libcublasLt and libnvrtc; a program linked so does not start without
//! them. Here each of their functions is a jump through a slot. The first call opens the library (`.so.13`, then `.12`
//! and so on), fills the slot, and jumps on; without the library it returns that library's "not initialised" code. As
//! all names are defined in the program itself, the linker drops its need for the libraries. Unaware of devices.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::{answers, limit, unwritten};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_NOW: c_int = 2;

/// A library, by its index in the trampolines below.
struct Library {
    /// As a user knows it.
    title: &'static str,
    /// File names in the order tried.
    files: &'static [&'static str],
    /// What its functions return when it is missing.
    missing: extern "C" fn() -> u32,
}

/// CUDA_ERROR_NOT_INITIALIZED.
extern "C" fn no_driver() -> u32 {
    3
}

/// CUBLAS_STATUS_NOT_INITIALIZED.
extern "C" fn no_cublas() -> u32 {
    1
}

/// NVRTC_ERROR_INTERNAL_ERROR.
extern "C" fn no_nvrtc() -> u32 {
    11
}

const LIBRARIES: [Library; 4] = [
    Library { title: "the NVIDIA driver", files: &["libcuda.so.1", "libcuda.so"], missing: no_driver },
    Library {
        title: "cuBLAS",
        files: &["libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"],
        missing: no_cublas,
    },
    Library {
        title: "cuBLASLt",
        files: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"],
        missing: no_cublas,
    },
    Library { title: "NVRTC", files: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"], missing: no_nvrtc },
];

/// Index of the driver, cuBLAS and cuBLASLt in [`LIBRARIES`].
pub(super) const DRIVER: usize = 0;
pub(super) const CUBLAS: usize = 1;
pub(super) const CUBLASLT: usize = 2;

/// Where toolkits put their libraries when the loader's own list does not name them.
fn folders() -> Vec<String> {
    let roots = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].iter().filter_map(|name| std::env::var(name).ok());
    roots.chain(["/usr/local/cuda".to_string()]).flat_map(|r| [format!("{r}/lib64/"), format!("{r}/lib/")]).collect()
}

/// A handle on the library, or null. Opened once; never closed, because its functions stay in the slots.
fn open(index: usize) -> *mut c_void {
    static OPENED: [OnceLock<usize>; LIBRARIES.len()] = [const { OnceLock::new() }; LIBRARIES.len()];
    let handle = OPENED[index].get_or_init(|| {
        let plain = LIBRARIES[index].files.iter().map(|file| (*file).to_string());
        let elsewhere = folders().into_iter().flat_map(|f| LIBRARIES[index].files.iter().map(move |n| f.clone() + n));
        let mut handles = plain.chain(elsewhere).filter_map(|path| CString::new(path).ok()).map(|path| {
            // SAFETY: a C string and a valid flag. NVIDIA's initialisers, which run now, have no preconditions.
            unsafe { dlopen(path.as_ptr(), RTLD_NOW) as usize }
        });
        handles.find(|handle| *handle != 0).unwrap_or(0)
    });
    *handle as *mut c_void
}

/// Whether the library is there; otherwise its title and the file name wanted.
pub(super) fn present(index: usize) -> Result<(), String> {
    let library = &LIBRARIES[index];
    if open(index).is_null() { Err(format!("{} ({})", library.title, library.files[0])) } else { Ok(()) }
}

/// What a trampoline knows of itself; laid out by the assembly below.
#[repr(C)]
struct Entry {
    slot: AtomicPtr<c_void>,
    name: *const c_char,
    library: usize,
}

/// Finds a trampoline's function and stores it in its slot. Called by the assembly below with all of the caller's
/// argument registers saved.
#[unsafe(no_mangle)]
extern "C" fn anneal_cuda_resolve(entry: *const Entry) -> *const c_void {
    // SAFETY: the assembly passes the address of a static entry, whose name is a C string.
    let (entry, name) = unsafe { (&*entry, CStr::from_ptr((*entry).name)) };
    let handle = open(entry.library);
    // SAFETY: `handle` is open and `name` a C string.
    let found = if handle.is_null() { handle } else { unsafe { dlsym(handle, name.as_ptr()) } };
    let target = if found.is_null() {
        LIBRARIES[entry.library].missing as *mut c_void
    } else {
        let known = answers::stand_in(name, found);
        match name.to_bytes() {
            b"cuMemsetD8Async" => unwritten::interpose(known),
            b"cuMemAllocAsync" => limit::interpose(known),
            _ => known,
        }
    };
    entry.slot.store(target, Ordering::Release);
    target
}

/// Defines `$name` as a jump through its slot, which first leads to the resolver. The assembly is x86-64's.
macro_rules! trampolines {
    ($($library:literal: $($name:ident)*;)*) => {
        #[cfg(target_arch = "x86_64")]
        std::arch::global_asm!(
            ".text",
            ".p2align 4",
            "anneal_cuda_lazy:",
            "push rbp",
            "mov rbp, rsp",
            "sub rsp, 192",
            "and rsp, -16",
            "mov [rsp], rdi",
            "mov [rsp + 8], rsi",
            "mov [rsp + 16], rdx",
            "mov [rsp + 24], rcx",
            "mov [rsp + 32], r8",
            "mov [rsp + 40], r9",
            "mov [rsp + 48], rax",
            "movups [rsp + 64], xmm0",
            "movups [rsp + 80], xmm1",
            "movups [rsp + 96], xmm2",
            "movups [rsp + 112], xmm3",
            "movups [rsp + 128], xmm4",
            "movups [rsp + 144], xmm5",
            "movups [rsp + 160], xmm6",
            "movups [rsp + 176], xmm7",
            "mov rdi, r11",
            "call {resolve}",
            "mov r11, rax",
            "mov rdi, [rsp]",
            "mov rsi, [rsp + 8]",
            "mov rdx, [rsp + 16]",
            "mov rcx, [rsp + 24]",
            "mov r8, [rsp + 32]",
            "mov r9, [rsp + 40]",
            "mov rax, [rsp + 48]",
            "movups xmm0, [rsp + 64]",
            "movups xmm1, [rsp + 80]",
            "movups xmm2, [rsp + 96]",
            "movups xmm3, [rsp + 112]",
            "movups xmm4, [rsp + 128]",
            "movups xmm5, [rsp + 144]",
            "movups xmm6, [rsp + 160]",
            "movups xmm7, [rsp + 176]",
            "mov rsp, rbp",
            "pop rbp",
            "jmp r11",
            $($(
                concat!(".globl ", stringify!($name)),
                concat!(".type ", stringify!($name), ", @function"),
                concat!(stringify!($name), ": jmp qword ptr [rip + .Lentry_", stringify!($name), "]"),
                concat!(".Llazy_", stringify!($name), ": lea r11, [rip + .Lentry_", stringify!($name), "]"),
                "jmp anneal_cuda_lazy",
                concat!(".size ", stringify!($name), ", . - ", stringify!($name)),
                ".pushsection .data.rel.anneal_cuda, \"aw\", @progbits",
                ".p2align 3",
                concat!(".Lentry_", stringify!($name), ": .quad .Llazy_", stringify!($name)),
                concat!(".quad .Lname_", stringify!($name)),
                concat!(".quad ", $library),
                ".popsection",
                ".pushsection .rodata.anneal_cuda, \"a\", @progbits",
                concat!(".Lname_", stringify!($name), ": .asciz \"", stringify!($name), "\""),
                ".popsection",
            )*)*
            resolve = sym anneal_cuda_resolve,
        );
    };
}

trampolines! {
    "0": cuCtxGetCurrent cuCtxSetCurrent cuDestroyExternalMemory cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount
        cuDeviceGetDefaultMemPool cuDeviceGetName cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain
        cuDeviceTotalMem_v2 cuDriverGetVersion cuEventCreate cuEventDestroy_v2 cuEventElapsedTime cuEventRecord
        cuExternalMemoryGetMappedBuffer cuFuncSetAttribute cuGetErrorName cuGetErrorString cuImportExternalMemory
        cuInit cuLaunchKernel cuLaunchKernelEx cuMemAllocAsync cuMemAllocHost_v2 cuMemAlloc_v2 cuMemFreeAsync
        cuMemFree_v2 cuMemGetInfo_v2
        cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemPoolTrimTo cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2
        cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemsetD8Async cuMemsetD8_v2
        cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload cuOccupancyAvailableDynamicSMemPerBlock
        cuOccupancyMaxActiveBlocksPerMultiprocessor cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
        cuOccupancyMaxActiveClusters cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags
        cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamCreate cuStreamDestroy_v2
        cuStreamSynchronize cuStreamWaitEvent;
    "1": cublasCreate_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasDgemm_v2 cublasDgemv_v2 cublasGemmEx
        cublasGemmStridedBatchedEx cublasSetStream_v2 cublasSgemmStridedBatched cublasSgemm_v2 cublasSgemv_v2;
    "2": cublasLtCreate cublasLtDestroy cublasLtGetCudartVersion cublasLtLoggerOpenFile cublasLtLoggerSetLevel
        cublasLtMatmul cublasLtMatmulAlgoGetHeuristic cublasLtMatmulDescCreate cublasLtMatmulDescDestroy
        cublasLtMatmulDescSetAttribute cublasLtMatmulPreferenceCreate cublasLtMatmulPreferenceDestroy
        cublasLtMatmulPreferenceSetAttribute cublasLtMatrixLayoutCreate cublasLtMatrixLayoutDestroy;
    "3": nvrtcCompileProgram nvrtcCreateProgram nvrtcDestroyProgram nvrtcGetPTX nvrtcGetPTXSize nvrtcGetProgramLog
        nvrtcGetProgramLogSize;
}

/// Makes the linker take this file's object before it looks into NVIDIA's libraries, whose functions it replaces.
#[cfg(target_arch = "x86_64")]
#[used]
static KEEP: unsafe extern "C" fn() = {
    unsafe extern "C" {
        fn cuInit();
    }
    cuInit
};
