//! Primitives of compute capability 9.0: barriers in shared memory, tiles as the warpgroup products read them, and these
//! products (wgmma: four warps, 64 rows of the result, 16 of them a warp's).
//!
//! A tile has panels of 64 elements: a row of a panel is 128 bytes, its 16-byte chunks at their index exclusive-or the
//! row's number modulo 8 (the 128-byte swizzle). A tile begins at a multiple of 1024 bytes. Sources: PTX ISA, "Matrix
//! multiply-accumulate, asynchronous warpgroup level". Unaware of softmax.
#pragma once

#include "mma.cuh"

namespace attention {

/// Threads of a warpgroup.
constexpr int GROUP = 128;

/// Where the products are compiled: for 90a alone. Elsewhere their kernels have no body, and the host does not choose
/// them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define ANNEAL_WGMMA 1
#endif

#ifdef ANNEAL_WGMMA

__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}

/// Waits for the end of the barrier's phase of this parity, the first of which is 0.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, int parity) {
    uint32_t done;
    do {
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
            : "=r"(done)
            : "r"(barrier), "r"(parity)
            : "memory");
    } while (!done);
}

/// Arrives at a named barrier of the block, and waits until `threads` have.
__device__ __forceinline__ void named_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

/// Arrives at a named barrier, for those who wait there until `threads` have.
__device__ __forceinline__ void named_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;\n" ::"r"(barrier), "r"(threads) : "memory");
}

/// Waits for the other warps of a warpgroup.
__device__ __forceinline__ void group_sync(int group) { named_sync(group + 1, GROUP); }

/// What this thread wrote to shared memory may be read by products once others know of it.
__device__ __forceinline__ void fence_for_products() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(REGISTERS));
}

template <int REGISTERS>
__device__ __forceinline__ void leave_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(REGISTERS));
}

/// A tile of ROWS rows of a head of D elements (a multiple of 64).
template <int D, int ROWS>
struct Panels {
    static constexpr int PANEL = ROWS * 128;  // bytes
    static constexpr int BYTES = D / 64 * PANEL;

    /// Descriptor of rows `row..` (a multiple of 8), elements `16 * k..` of each: summed over elements.
    static __device__ __forceinline__ uint64_t by_elements(uint32_t tile, int row, int k) {
        return descriptor(tile + row * 128 + k / 4 * PANEL + k % 4 * 32);
    }
    /// Descriptor of rows `16 * k..`, all elements: summed over rows.
    static __device__ __forceinline__ uint64_t by_rows(uint32_t tile, int k) { return descriptor(tile + k * 2048); }

    /// Start, bytes between panels, 1024 bytes between groups of 8 rows, 128-byte swizzle.
    static __device__ __forceinline__ uint64_t descriptor(uint32_t address) {
        constexpr uint64_t REST = uint64_t(1) << 62 | uint64_t(1024 / 16) << 32 | uint64_t(PANEL / 16) << 16;
        return REST | (address & 0x3FFFF) >> 4;
    }
    /// Address of 16 bytes of a row.
    static __device__ __forceinline__ uint32_t chunk(uint32_t tile, int row, int column) {
        return tile + column / 8 * PANEL + row * 128 + ((column ^ row) & 7) * 16;
    }
    /// The warp's 16 rows from `row` as a left operand in registers.
    static __device__ __forceinline__ void left(uint32_t (&a)[D / 16][4], uint32_t tile, int row, int lane) {
#pragma unroll
        for (int k = 0; k < D / 16; ++k) ldmatrix(a[k], chunk(tile, row + (lane & 15), 2 * k + (lane >> 4)));
    }
};

/// As `load_tile`, for one warpgroup.
template <int D, int ROWS>
__device__ __forceinline__ void load_panels(uint32_t tile, const bf16* source, uint32_t stride, int rows, int dim) {
    using P = Panels<D, ROWS>;
    const int first_row = (threadIdx.x & (GROUP - 1)) >> 3, column = threadIdx.x & 7;
    uint32_t from = first_row * stride + column * 8;
    const uint32_t to = P::chunk(tile, first_row, column);
#pragma unroll 2  // the warpgroup that copies has few registers
    for (int row = 0; row < ROWS; row += GROUP / 8) {
#pragma unroll
        for (int panel = 0; panel < D / 64; ++panel) {
            const bool take = row + first_row < rows && panel * 64 + column * 8 < dim;
            copy_16(to + panel * P::PANEL + row * 128, source + (take ? from + panel * 64 : 0), take);
        }
        from += GROUP / 8 * stride;
    }
}

/// Begins a group of products: what registers hold now is what they read.
__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }

__device__ __forceinline__ void products_end() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }

/// Waits for all but the last PENDING groups of products.
template <int PENDING>
__device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(PENDING) : "memory");
}

/// Keeps what writes these registers ahead of this, and what reads them behind: the compiler knows of a product's
/// instructions, not of the time until it is waited for. Left operands are pinned before their
/// product begins and after it is waited for, and so are results that other instructions change in between. No instructions.
template <int N>
__device__ __forceinline__ void pin(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[n][i])::"memory");
}

template <int N>
__device__ __forceinline__ void pin(uint32_t (&a)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[n][i])::"memory");
}

/// c[64 x 64] (+)= a b, `a` [64 x 16] and `b` [16 x 64] in shared memory, both K-major. Without `add`, c is overwritten.
__device__ __forceinline__ void multiply(float (&c)[8][4], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, 0, 0;\n}\n"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
          "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
          "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
          "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
        : "l"(a), "l"(b), "r"(add));
}

/// As above, `a` in registers (16 rows a warp, as `mma`'s); `b` MN-major if TRANSPOSED.
template <int TRANSPOSED>
__device__ __forceinline__ void multiply(float (&c)[8][4], const uint32_t (&a)[4], uint64_t b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
          "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
          "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
          "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TRANSPOSED));
}

/// As above, c[64 x 128].
template <int TRANSPOSED>
__device__ __forceinline__ void multiply(float (&c)[16][4], const uint32_t (&a)[4], uint64_t b, int add) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}\n"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
          "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
          "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
          "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3]),
          "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]), "+f"(c[8][3]), "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]),
          "+f"(c[10][0]), "+f"(c[10][1]), "+f"(c[10][2]), "+f"(c[10][3]), "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]),
          "+f"(c[12][0]), "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]), "+f"(c[13][0]), "+f"(c[13][1]), "+f"(c[13][2]), "+f"(c[13][3]),
          "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]), "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]), "+f"(c[15][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TRANSPOSED));
}

/// 16 bytes of shared memory.
__device__ __forceinline__ uint4 read_16(uint32_t address) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

/// A product's result p[64 x NT * 8] as the left operand of another: bf16.
template <int NT>
__device__ __forceinline__ void as_left(uint32_t (&a)[NT / 2][4], const float (&p)[NT][4]) {
#pragma unroll
    for (int k = 0; k < NT / 2; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) a[k][i] = pack(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1]);
}

/// Writes a warp's c[16 x D] as bf16 rows of a head by way of its own rows `row..` of a tile; c[..][0..2] is multiplied
/// by factor[0], c[..][2..4] by factor[1].
template <int D, int ROWS>
__device__ __forceinline__ void store_panels(bf16* to, size_t stride, int rows, int dim, uint32_t tile, int row,
                                             const float (&c)[D / 8][4], const float (&factor)[2]) {
    using P = Panels<D, ROWS>;
    const int lane = threadIdx.x & 31;
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
            const uint32_t pair = pack(c[n][half * 2] * factor[half], c[n][half * 2 + 1] * factor[half]);
            const uint32_t at = P::chunk(tile, row + half * 8 + lane / 4, n) + lane % 4 * 4;
            asm volatile("st.shared.b32 [%0], %1;\n" ::"r"(at), "r"(pair) : "memory");
        }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
        const int own = i + lane / 8;
#pragma unroll
        for (int panel = 0; panel < D / 64; ++panel) {
            const int column = panel * 8 + lane % 8;
            const uint4 v = read_16(P::chunk(tile, row + own, column));
            if (own < rows && column * 8 < dim) *reinterpret_cast<uint4*>(to + own * stride + column * 8) = v;
        }
    }
}

#endif  // ANNEAL_WGMMA

}  // namespace attention
