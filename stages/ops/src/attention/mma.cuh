//! Tensor-core primitives of attention: asynchronous copies, fragments of m16n8k16 products, tiles in shared memory.
//!
//! A tile's row of D bf16 takes D + 8 elements of shared memory: an odd number of 16-byte chunks, so that the eight
//! rows an ldmatrix reads lie in different banks, and every address is a base plus a constant. Unaware of softmax.
#pragma once

#include "../cuda/common.cuh"

namespace attention {

/// Threads of a tensor-core block: four warps.
constexpr int THREADS = 128;
constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes to shared memory in the background; zeros where `take` is false (`source` is not read then).
__device__ __forceinline__ void copy_16(uint32_t to, const void* source, bool take) {
    const int bytes = take ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(source), "r"(bytes));
}

/// As `copy_16`, 8 bytes.
__device__ __forceinline__ void copy_8(uint32_t to, const void* source, bool take) {
    const int bytes = take ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(to), "l"(source), "r"(bytes));
}

/// Copies 4 bytes to shared memory in the background.
__device__ __forceinline__ void copy_4(uint32_t to, const void* source) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(to), "l"(source));
}

/// Brings the line of `address` into L2.
__device__ __forceinline__ void prefetch_l2(const void* address) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(address));
}

__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;\n" ::); }

/// Waits for all but the last PENDING groups of this thread's copies.
template <int PENDING>
__device__ __forceinline__ void copies_wait_for_all_but() {
    asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
}

/// Waits for all copies of this thread, committed or not; others' need a barrier after it.
__device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_all;\n" ::: "memory"); }

/// 2^x, flushing denormals; 0 for minus infinity.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

/// min(x, 0) that keeps NaN.
__device__ __forceinline__ float at_most_0(float x) {
    float y;
    asm("min.NaN.f32 %0, %1, 0f00000000;\n" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

/// c[16 x 8] += a[16 x 16] b[16 x 8]. A thread holds c at row lane / 4 (c[0], c[1]) and 8 rows below (c[2], c[3]),
/// columns lane % 4 * 2 and the next.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// A tile of rows of one head in shared memory, as ldmatrix sees it: per-lane base addresses for the three uses.
template <int D>
struct Tile {
    static constexpr int STRIDE = (D + 8) * 2;  // bytes between rows
    static __host__ __device__ constexpr int bytes(int rows) { return rows * STRIDE; }

    /// Base for `a`: 16 rows as the left operand.
    static __device__ __forceinline__ uint32_t left(uint32_t tile, int lane) {
        return tile + (lane & 15) * STRIDE + (lane >> 4) * 16;
    }
    /// Base for `b`: rows are the product's columns, summed over the head's elements.
    static __device__ __forceinline__ uint32_t right(uint32_t tile, int lane) {
        return tile + ((lane & 7) + (lane >> 4) * 8) * STRIDE + ((lane >> 3) & 1) * 16;
    }
    /// Base for `b` transposed: the head's elements are the product's columns, summed over rows.
    static __device__ __forceinline__ uint32_t right_transposed(uint32_t tile, int lane) { return left(tile, lane); }
    /// Offset of 16-row block `row` and 16-element block `column` from a base.
    static __device__ __forceinline__ constexpr uint32_t at(int row, int column) {
        return row * 16 * STRIDE + column * 32;
    }
};

/// Starts copying rows `0..rows` of a head (`source` is row 0, `stride` elements apart) into a tile of ROWS rows; rows
/// and elements beyond `rows` and `dim` become zero. All threads of the block take part.
template <int D, int ROWS>
__device__ __forceinline__ void load_tile(uint32_t tile, const bf16* source, uint32_t stride, int rows, int dim) {
    constexpr int CHUNKS = D / 8;
    const int first_row = threadIdx.x >> 3, first_column = threadIdx.x & 7;
    uint32_t from = first_row * stride + first_column * 8;  // 32 bits: registers are short
    const uint32_t to = tile + first_row * Tile<D>::STRIDE + first_column * 16;
#pragma unroll
    for (int row = 0; row < ROWS; row += THREADS / 8) {
#pragma unroll
        for (int column = 0; column < CHUNKS; column += 8) {
            if (CHUNKS % 8 == 0 || column + first_column < CHUNKS) {
                const bool take = row + first_row < rows && (column + first_column) * 8 < dim;
                copy_16(to + row * Tile<D>::STRIDE + column * 16, source + (take ? from + column * 8 : 0), take);
            }
        }
        from += THREADS / 8 * stride;
    }
}

/// c[MT * 16 x NT * 8] += a b with both operands in shared memory: `a` a base of `left`, `b` of `right`, over D.
template <int D, int MT, int NT>
__device__ __forceinline__ void product(float (&c)[MT][NT][4], uint32_t a, uint32_t b) {
#pragma unroll (MT == 2 ? 4 : D / 16)
    for (int k = 0; k < D / 16; ++k) {
        uint32_t left[MT][4];
#pragma unroll
        for (int m = 0; m < MT; ++m) ldmatrix(left[m], a + Tile<D>::at(m, k));
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t right[4];
            ldmatrix(right, b + Tile<D>::at(n / 2, k));
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                mma(c[m][n], left[m], right[0], right[1]);
                mma(c[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/// As above with one row block whose left fragments are in registers.
template <int D, int NT>
__device__ __forceinline__ void product(float (&c)[NT][4], const uint32_t (&a)[D / 16][4], uint32_t b) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            uint32_t right[4];
            ldmatrix(right, b + Tile<D>::at(n / 2, k));
            mma(c[n], a[k], right[0], right[1]);
            mma(c[n + 1], a[k], right[2], right[3]);
        }
    }
}

/// A product's result p[MT * 16 x KT * 8] as the left operand of another: bf16, half the registers.
template <int MT, int KT>
struct Packed {
    uint32_t a[MT][KT / 2][4];

    __device__ __forceinline__ explicit Packed(const float (&p)[MT][KT][4]) {
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int k = 0; k < KT / 2; ++k)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float* pair = p[m][2 * k + i / 2] + i % 2 * 2;
                    a[m][k][i] = pack(pair[0], pair[1]);
                }
    }
};

/// c[MT * 16 x D] += p b, `b` a base of `right_transposed`.
template <int D, int MT, int KT>
__device__ __forceinline__ void product(float (&c)[MT][D / 8][4], const Packed<MT, KT>& p, uint32_t b) {
#pragma unroll
    for (int k = 0; k < KT / 2; ++k) {
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t right[4];
            ldmatrix_transposed(right, b + Tile<D>::at(k, n / 2));
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                mma(c[m][n], p.a[m][k], right[0], right[1]);
                mma(c[m][n + 1], p.a[m][k], right[2], right[3]);
            }
        }
    }
}

/// Writes a warp's c[MT * 16 x D] as bf16 rows of a head, by way of its own rows of shared memory (`own`), so that
/// global stores are 16 bytes wide. `rows` may be less than the warp has; c[m][..][0..2] is multiplied by
/// factor[m][0], c[m][..][2..4] by factor[m][1].
template <int D, int MT>
__device__ __forceinline__ void store_rows(bf16* to, size_t stride, int rows, int dim, char* own,
                                           const float (&c)[MT][D / 8][4], const float (&factor)[MT][2]) {
    const int lane = threadIdx.x & 31;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            char* row = own + (m * 16 + half * 8 + lane / 4) * Tile<D>::STRIDE + lane % 4 * 4;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) {
                const float f = factor[m][half];
                *reinterpret_cast<uint32_t*>(row + n * 16) = pack(c[m][n][half * 2] * f, c[m][n][half * 2 + 1] * f);
            }
        }
    }
    __syncwarp();
    for (int row = lane / 8; row < MT * 16 && row < rows; row += 4) {
        for (int column = lane % 8; column * 8 < dim; column += 8) {
            *reinterpret_cast<uint4*>(to + row * stride + column * 8) =
                *reinterpret_cast<const uint4*>(own + row * Tile<D>::STRIDE + column * 16);
        }
    }
}

}  // namespace attention
