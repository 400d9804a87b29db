/* A GPU driver that computes nothing: libcuda, libcublas and libcublasLt in one, for a machine without any.
 *
 * Device memory is the host's, cleared; kernels and products do nothing and succeed. FAKE_GPU names what is wrong:
 *
 *   none        the driver shows no device              old       a driver of CUDA 12 under a cuBLASLt of CUDA 13
 *   turing      compute capability 7.5                  pools     no memory pools
 *   kernels     no kernel of the program's loads        taken     another process has the device for itself
 *   full        no memory is left for a context         crowded   FAKE_FREE bytes are left for allocations
 *   lost        behind FAKE_AFTER launches every call fails with FAKE_CODE
 *   starved     after FAKE_AFTER allocations there is no memory for any
 *
 * FAKE_COUNT names a file for the numbers of launches and allocations. Codes and attributes are those of cuda.h.
 * Unaware of anneal. */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))

enum { OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_BINARY_FOR_GPU = 209, DEVICE_UNAVAILABLE = 46 };

static int is(const char *trouble) {
    const char *named = getenv("FAKE_GPU");
    return named && strcmp(named, trouble) == 0;
}

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

static long launches, allocations;
static int code; /* what every call returns from now on */

/* A launch succeeds, and what becomes of it is told by whatever call comes next. */
static int launched(void) {
    int so_far = code;
    long count = __atomic_add_fetch(&launches, 1, __ATOMIC_RELAXED);
    if (!code && is("lost") && count > number("FAKE_AFTER")) code = number("FAKE_CODE");
    return so_far;
}

__attribute__((destructor)) static void count(void) {
    const char *path = getenv("FAKE_COUNT");
    FILE *file = path && launches ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld %ld", launches, allocations);
        fclose(file);
    }
}

/* Functions that succeed and say nothing. */
#define SILENT(name) API int name(void) { return code; }
/* Functions whose first argument is where a handle goes. */
#define HANDLE(name) API int name(void **to) { *to = &code; return code; }
/* The same of cuBLAS and cuBLASLt, which have codes of their own: 13 is CUBLAS_STATUS_EXECUTION_FAILED. */
#define SILENT_BLAS(name) API int name(void) { return code ? 13 : 0; }
#define HANDLE_BLAS(name) API int name(void **to) { *to = &code; return code ? 13 : 0; }

HANDLE(cuCtxGetCurrent) SILENT(cuCtxSetCurrent) SILENT(cuDevicePrimaryCtxRelease_v2)
HANDLE(cuModuleLoad) HANDLE(cuModuleGetFunction) SILENT(cuModuleUnload) SILENT(cuFuncSetAttribute)
HANDLE(cuEventCreate) SILENT(cuEventDestroy_v2) SILENT(cuEventRecord)
HANDLE(cuStreamCreate) SILENT(cuStreamDestroy_v2) SILENT(cuStreamSynchronize) SILENT(cuStreamWaitEvent)
HANDLE(cuDeviceGetDefaultMemPool) SILENT(cuMemPoolSetAttribute) SILENT(cuMemPoolTrimTo)
SILENT(cuProfilerStart) SILENT(cuProfilerStop)
HANDLE_BLAS(cublasCreate_v2) SILENT_BLAS(cublasDestroy_v2) SILENT_BLAS(cublasSetStream_v2)
SILENT_BLAS(cublasGemmEx) SILENT_BLAS(cublasGemmStridedBatchedEx) SILENT_BLAS(cublasSgemm_v2) SILENT_BLAS(cublasSgemmStridedBatched)
SILENT_BLAS(cublasDgemm_v2) SILENT_BLAS(cublasDgemmStridedBatched) SILENT_BLAS(cublasSgemv_v2) SILENT_BLAS(cublasDgemv_v2)
HANDLE_BLAS(cublasLtCreate) SILENT_BLAS(cublasLtDestroy) HANDLE_BLAS(cublasLtMatmulDescCreate) SILENT_BLAS(cublasLtMatmulDescDestroy)
SILENT_BLAS(cublasLtMatmulDescSetAttribute) HANDLE_BLAS(cublasLtMatmulPreferenceCreate) SILENT_BLAS(cublasLtMatmulPreferenceDestroy)
SILENT_BLAS(cublasLtMatmulPreferenceSetAttribute) HANDLE_BLAS(cublasLtMatrixLayoutCreate) SILENT_BLAS(cublasLtMatrixLayoutDestroy)

API size_t cublasLtGetCudartVersion(void) { return 13000; }
API int cublasLtMatmul(void) { return launched() ? 13 : 0; }

API int cublasLtMatmulAlgoGetHeuristic(void *lt, void *desc, void *a, void *b, void *c, void *d, void *preference,
                                       int wanted, void *results, int *found) {
    (void)lt, (void)desc, (void)a, (void)b, (void)c, (void)d, (void)preference, (void)wanted;
    memset(results, 0, 96); /* cublasLtMatmulHeuristicResult_t: state 0 is success */
    *found = 1;
    return 0;
}

API int cuInit(unsigned flags) { (void)flags; return is("none") ? NO_DEVICE : code; }
API int cuDriverGetVersion(int *to) { *to = is("old") ? 12080 : 13000; return code; }
API int cuDeviceGetCount(int *to) { *to = 1; return code; }
API int cuDeviceGet(int *to, int index) { *to = index; return code; }
API int cuDeviceGetName(char *to, int room, int device) { (void)device; snprintf(to, room, "Fake GPU"); return code; }
API int cuDeviceTotalMem_v2(size_t *to, int device) { (void)device; *to = (size_t)8 << 30; return code; }

API int cuDeviceGetAttribute(int *to, int attribute, int device) {
    (void)device;
    switch (attribute) {
        case 16: *to = 4; break;                       /* multiprocessors */
        case 75: *to = is("turing") ? 7 : 8; break;    /* compute capability, major */
        case 76: *to = is("turing") ? 5 : 0; break;    /* minor */
        case 97: *to = 163 << 10; break;               /* shared memory that a block may opt into */
        case 115: *to = !is("pools"); break;           /* memory pools */
        default: *to = 0;
    }
    return code;
}

API int cuDevicePrimaryCtxRetain(void **to, int device) {
    (void)device;
    *to = &code;
    return is("taken") ? DEVICE_UNAVAILABLE : is("full") ? OUT_OF_MEMORY : code;
}

API int cuModuleLoadData(void **to, const void *image) {
    (void)image;
    *to = &code;
    return is("kernels") ? NO_BINARY_FOR_GPU : code;
}

static size_t used;

API int cuMemAllocAsync(uint64_t *to, size_t bytes, void *stream) {
    (void)stream;
    if (code) return code;
    long so_far = __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    if (is("starved") && so_far > number("FAKE_AFTER")) return OUT_OF_MEMORY;
    if (is("crowded") && used + bytes > (size_t)number("FAKE_FREE")) return OUT_OF_MEMORY;
    void *memory = calloc(bytes ? bytes : 1, 1);
    if (!memory) return OUT_OF_MEMORY;
    __atomic_add_fetch(&used, malloc_usable_size(memory), __ATOMIC_RELAXED);
    *to = (uint64_t)memory;
    return 0;
}
API int cuMemAlloc_v2(uint64_t *to, size_t bytes) { return cuMemAllocAsync(to, bytes, NULL); }
API int cuMemAllocHost_v2(void **to, size_t bytes) { *to = calloc(bytes ? bytes : 1, 1); return code; }

API int cuMemFreeAsync(uint64_t memory, void *stream) {
    (void)stream;
    __atomic_sub_fetch(&used, malloc_usable_size((void *)memory), __ATOMIC_RELAXED);
    free((void *)memory);
    return code;
}
API int cuMemFree_v2(uint64_t memory) { return cuMemFreeAsync(memory, NULL); }

API int cuMemPoolGetAttribute(void *pool, int attribute, uint64_t *to) {
    (void)pool, (void)attribute;
    *to = used;
    return code;
}
API int cuMemGetInfo_v2(size_t *left, size_t *all) {
    *all = (size_t)8 << 30;
    size_t most = is("crowded") ? (size_t)number("FAKE_FREE") : *all;
    *left = most > used ? most - used : 0;
    return code;
}

static int copy(uint64_t to, uint64_t from, size_t bytes) {
    if (!code) memmove((void *)to, (void *)from, bytes);
    return code;
}
API int cuMemcpyHtoD_v2(uint64_t to, uint64_t from, size_t bytes) { return copy(to, from, bytes); }
API int cuMemcpyDtoH_v2(uint64_t to, uint64_t from, size_t bytes) { return copy(to, from, bytes); }
API int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) { return copy(to, from, bytes); }
API int cuMemcpyHtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *s) { (void)s; return copy(to, from, bytes); }
API int cuMemcpyDtoHAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *s) { (void)s; return copy(to, from, bytes); }
API int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *s) { (void)s; return copy(to, from, bytes); }
API int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes) {
    if (!code) memset((void *)to, value, bytes);
    return code;
}
API int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    return cuMemsetD8_v2(to, value, bytes);
}

API int cuLaunchKernel(void) { return launched(); }
API int cuLaunchKernelEx(void) { return launched(); }
API int cuEventElapsedTime(float *to, void *from, void *until) { (void)from, (void)until; *to = 1; return code; }

static const char *name_of(int which) {
    switch (which) {
        case OUT_OF_MEMORY: return "out of memory";
        case DEVICE_UNAVAILABLE: return "CUDA-capable device(s) is/are busy or unavailable";
        case NO_DEVICE: return "no CUDA-capable device is detected";
        case NO_BINARY_FOR_GPU: return "no kernel image is available for execution on the device";
        case 214: return "uncorrectable ECC error encountered";
        case 700: return "an illegal memory access was encountered";
        default: return "unknown error";
    }
}
API int cuGetErrorString(int which, const char **to) { *to = name_of(which); return 0; }
API int cuGetErrorName(int which, const char **to) { *to = name_of(which); return 0; }
