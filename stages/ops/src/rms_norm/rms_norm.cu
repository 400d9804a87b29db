// Root-mean-square normalisation of bf16 rows, weight and statistics in f32.
//
// Fused: statistics and output in one pass over x (a row stays in its block's registers). As Hugging Face does it, the
// normalised number is rounded to bf16 before the weight multiplies it. anneal_rms_norm_forward overwrites (=) `out`
// and `r`; anneal_rms_norm_backward adds (+=) to `d_x`; the weight's gradient comes in two stages: _partial overwrites
// (=) one sum for each group of rows, _finish adds (+=) them in order. Numbered kernels hold that many vectors a thread
// and take widths that are multiples of 8; the `_any` kernels take all, and read a row twice.
#include "../add/vector.cuh"

namespace anneal_rms_norm {

using namespace anneal_vector;

/// Rows whose loads are in flight at once in the weight's gradient.
constexpr unsigned AHEAD = 4;

__device__ __forceinline__ float rounded(float x) { return widen(anneal::to_bf16(x)); }

template <int VECTORS>
__device__ __forceinline__ void forward(bf16* out, float* r_out, const bf16* x, const float* weight,
                                        unsigned long long rows, unsigned width, float eps) {
    __shared__ float scratch[2][32];
    anneal::next_may_begin();
    anneal::await_earlier();
    unsigned turn = 0;
    for (unsigned long long row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
        const unsigned long long first = row * width;
        Raw raw[VECTORS];
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            const unsigned column = (k * blockDim.x + threadIdx.x) * WIDTH;
            raw[k] = Raw::zero();
            if (column < width) raw[k] = Raw::load(x + first + column);
        }
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            float v[WIDTH];
            raw[k].unpack(v);
            for (unsigned j = 0; j < WIDTH; ++j) sum = fmaf(v[j], v[j], sum);
        }
        const float r = rsqrtf(block_sum(sum, scratch[turn]) / width + eps);
        if (threadIdx.x == 0) r_out[row] = r;
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            const unsigned column = (k * blockDim.x + threadIdx.x) * WIDTH;
            if (column >= width) continue;
            float v[WIDTH], w[WIDTH];
            raw[k].unpack(v);
            load(weight + column, w);
            for (unsigned j = 0; j < WIDTH; ++j) v[j] = rounded(v[j] * r) * w[j];
            store(out + first + column, v);
        }
    }
}

template <int VECTORS>
__device__ __forceinline__ void backward(bf16* d_x, const bf16* d, const bf16* x, const float* weight, const float* r,
                                         unsigned long long rows, unsigned width) {
    __shared__ float scratch[2][32];
    unsigned turn = 0;
    for (unsigned long long row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
        const unsigned long long first = row * width;
        Raw raw_d[VECTORS], raw_x[VECTORS], raw_old[VECTORS];
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            const unsigned column = (k * blockDim.x + threadIdx.x) * WIDTH;
            raw_d[k] = raw_x[k] = raw_old[k] = Raw::zero();
            if (column >= width) continue;
            raw_d[k] = Raw::load(d + first + column);
            raw_x[k] = Raw::load(x + first + column);
            raw_old[k] = Raw::load(d_x + first + column);
        }
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            const unsigned column = (k * blockDim.x + threadIdx.x) * WIDTH;
            if (column >= width) continue;
            float a[WIDTH], b[WIDTH], w[WIDTH];
            raw_d[k].unpack(a);
            raw_x[k].unpack(b);
            load(weight + column, w);
            for (unsigned j = 0; j < WIDTH; ++j) sum = fmaf(a[j] * w[j], b[j], sum);
        }
        // Scaled by r before r is squared: x of 1e20 would make r * r vanish.
        const float scale = r[row], shift = block_sum(sum, scratch[turn]) / width * scale * scale;
#pragma unroll
        for (int k = 0; k < VECTORS; ++k) {
            const unsigned column = (k * blockDim.x + threadIdx.x) * WIDTH;
            if (column >= width) continue;
            float a[WIDTH], b[WIDTH], w[WIDTH], old[WIDTH];
            raw_d[k].unpack(a);
            raw_x[k].unpack(b);
            raw_old[k].unpack(old);
            load(weight + column, w);
            for (unsigned j = 0; j < WIDTH; ++j) old[j] = fmaf(scale, fmaf(-b[j], shift, a[j] * w[j]), old[j]);
            store(d_x + first + column, old);
        }
    }
}

}  // namespace anneal_rms_norm

#define ANNEAL_RMS_NORM(VECTORS)                                                                                    \
    extern "C" __global__ void __launch_bounds__(512)                                                               \
        anneal_rms_norm_forward_##VECTORS(__nv_bfloat16* out, float* r, const __nv_bfloat16* x, const float* weight, \
                                          unsigned long long rows, unsigned width, float eps) {                     \
        anneal_rms_norm::forward<VECTORS>(out, r, x, weight, rows, width, eps);                                     \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(512)                                                               \
        anneal_rms_norm_backward_##VECTORS(__nv_bfloat16* d_x, const __nv_bfloat16* d, const __nv_bfloat16* x,      \
                                           const float* weight, const float* r, unsigned long long rows,            \
                                           unsigned width) {                                                        \
        anneal_rms_norm::backward<VECTORS>(d_x, d, x, weight, r, rows, width);                                      \
    }

ANNEAL_RMS_NORM(1)
ANNEAL_RMS_NORM(2)
ANNEAL_RMS_NORM(4)

extern "C" __global__ void __launch_bounds__(256)
    anneal_rms_norm_forward_any(__nv_bfloat16* out, float* r_out, const __nv_bfloat16* x, const float* weight,
                                unsigned long long rows, unsigned width, float eps) {
    using namespace anneal_rms_norm;
    __shared__ float scratch[2][32];
    anneal::next_may_begin();
    anneal::await_earlier();
    unsigned turn = 0;
    for (unsigned long long row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
        const unsigned long long first = row * width;
        float sum = 0.0f;
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
            const float v = widen(x[first + i]);
            sum = fmaf(v, v, sum);
        }
        const float r = rsqrtf(block_sum(sum, scratch[turn]) / width + eps);
        if (threadIdx.x == 0) r_out[row] = r;
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
            put(out + first + i, rounded(widen(x[first + i]) * r) * weight[i]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_rms_norm_backward_any(__nv_bfloat16* d_x, const __nv_bfloat16* d, const __nv_bfloat16* x,
                                 const float* weight, const float* r, unsigned long long rows, unsigned width) {
    using namespace anneal_rms_norm;
    __shared__ float scratch[2][32];
    unsigned turn = 0;
    for (unsigned long long row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 1) {
        const unsigned long long first = row * width;
        float sum = 0.0f;
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
            sum = fmaf(widen(d[first + i]) * weight[i], widen(x[first + i]), sum);
        }
        const float scale = r[row], shift = block_sum(sum, scratch[turn]) / width * scale * scale;
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) {
            const float g = widen(d[first + i]) * weight[i];
            put(d_x + first + i, fmaf(scale, fmaf(-widen(x[first + i]), shift, g), widen(d_x[first + i])));
        }
    }
}

/// partial[group, column] = sum over the group's rows, in order, of d * x * r. A grid column a group.
extern "C" __global__ void __launch_bounds__(128)
    anneal_rms_norm_weight_partial(float* partial, const __nv_bfloat16* d, const __nv_bfloat16* x, const float* r,
                                   unsigned long long rows, unsigned width, unsigned rows_a_group) {
    using namespace anneal_rms_norm;
    const unsigned column = (blockIdx.x * blockDim.x + threadIdx.x) * WIDTH;
    if (column >= width) return;
    unsigned long long row = blockIdx.y * (unsigned long long)rows_a_group;
    const unsigned long long end = min(rows, row + rows_a_group);
    float sum[WIDTH] = {};
    auto add = [&](const Raw& raw_d, const Raw& raw_x, float scale) {
        float a[WIDTH], b[WIDTH];
        raw_d.unpack(a);
        raw_x.unpack(b);
        for (unsigned j = 0; j < WIDTH; ++j) sum[j] = fmaf(a[j], b[j] * scale, sum[j]);
    };
    for (; row + AHEAD <= end; row += AHEAD) {
        Raw raw_d[AHEAD], raw_x[AHEAD];
        float scale[AHEAD];
#pragma unroll
        for (unsigned a = 0; a < AHEAD; ++a) {
            raw_d[a] = Raw::load(d + (row + a) * width + column);
            raw_x[a] = Raw::load(x + (row + a) * width + column);
            scale[a] = r[row + a];
        }
#pragma unroll
        for (unsigned a = 0; a < AHEAD; ++a) add(raw_d[a], raw_x[a], scale[a]);
    }
    for (; row < end; ++row) add(Raw::load(d + row * width + column), Raw::load(x + row * width + column), r[row]);
    store(partial + blockIdx.y * (unsigned long long)width + column, sum);
}

extern "C" __global__ void __launch_bounds__(128)
    anneal_rms_norm_weight_partial_any(float* partial, const __nv_bfloat16* d, const __nv_bfloat16* x, const float* r,
                                       unsigned long long rows, unsigned width, unsigned rows_a_group) {
    using namespace anneal_vector;
    const unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    unsigned long long row = blockIdx.y * (unsigned long long)rows_a_group;
    const unsigned long long end = min(rows, row + rows_a_group);
    float sum = 0.0f;
    for (; row < end; ++row) sum = fmaf(widen(d[row * width + column]), widen(x[row * width + column]) * r[row], sum);
    partial[blockIdx.y * (unsigned long long)width + column] = sum;
}

/// d_weight[column] += partial[0, column] + partial[1, column] + ...
extern "C" __global__ void __launch_bounds__(128)
    anneal_rms_norm_weight_finish(float* d_weight, const float* partial, unsigned groups, unsigned width) {
    const unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
#pragma unroll 8
    for (unsigned group = 0; group < groups; ++group) sum += partial[group * (unsigned long long)width + column];
    d_weight[column] += sum;
}
