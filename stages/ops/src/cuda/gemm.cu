// C = alpha * op(A) op(B) + beta * source (C itself, or another matrix of its shape) for any sizes, strides and alignments: what cuBLASLt refuses. Overwrites (=) C.
// One thread an element, f32 products summed in order. Not fast.
#include "common.cuh"

using namespace anneal;

static __device__ __forceinline__ float read(const void* p, bool wide, uint64_t i) {
    return wide ? static_cast<const float*>(p)[i] : to_f32(static_cast<const bf16*>(p)[i]);
}

extern "C" __global__ void anneal_gemm_plain(const void* a, uint32_t wide, uint64_t a_row, uint64_t a_col,
                                             const void* b, uint64_t b_row, uint64_t b_col, void* c, uint32_t c_wide,
                                             const void* source, uint64_t c_row, uint64_t m, uint64_t n, uint64_t k, float alpha,
                                             float beta) {
    for (uint64_t i = first(); i < m * n; i += stride()) {
        const uint64_t row = i / n, col = i % n;
        float sum = 0.f;
        for (uint64_t j = 0; j < k; ++j) {
            sum = fmaf(read(a, wide, row * a_row + j * a_col), read(b, wide, j * b_row + col * b_col), sum);
        }
        const uint64_t at = row * c_row + col;
        const float old = beta == 0.f ? 0.f : beta * read(source, c_wide, at);
        const float value = alpha * sum + old;
        if (c_wide) {
            static_cast<float*>(c)[at] = value;
        } else {
            static_cast<bf16*>(c)[at] = to_bf16(value);
        }
    }
}
