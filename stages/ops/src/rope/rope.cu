// Rotary positions on bf16 rows [rows, heads * 2 * half], split-half convention; cosines and sines are f32.
//
// Fused: both halves of a head are rotated from one load of each. A thread keeps the cosines of its columns for a few
// heads of its row. anneal_rope_forward overwrites (=) `out`, which may be `x`; anneal_rope_backward adds (+=) the
// gradient rotated back to `d_x`; anneal_rope_pair does forward for queries and keys at once. The `_any` kernels take every even head size, the others multiples of 16.
#include "../add/vector.cuh"

namespace anneal_rope {

using namespace anneal_vector;

/// Heads that share a thread's cosines.
constexpr unsigned HEADS = 4;

struct Shape {
    unsigned long long rows;
    unsigned heads, half;
    unsigned add;  // backward adds to `out`
};

template <bool BACK>
__device__ __forceinline__ void rotate(float x, float y, float c, float s, float& low, float& high) {
    if (BACK) s = -s;
    low = fmaf(x, c, -(y * s));
    high = fmaf(y, c, x * s);
}

/// `out = ` `x` rotated, or with BACK `out += ` `x` rotated back.
template <bool BACK>
__device__ __forceinline__ void vectors(bf16* out, const bf16* x, const float* cosines, const float* sines,
                                        const unsigned* positions, Shape shape) {
    const unsigned columns = shape.half / WIDTH, groups = (shape.heads + HEADS - 1) / HEADS, each = columns * groups;
    const unsigned long long items = shape.rows * each;
    const unsigned long long stride = gridDim.x * (unsigned long long)blockDim.x;
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < items; i += stride) {
        const unsigned long long row = i / each;
        const unsigned item = (unsigned)(i - row * each), group = item / columns, column = (item % columns) * WIDTH;
        float c[WIDTH], s[WIDTH];
        const unsigned long long at = (unsigned long long)positions[row] * shape.half + column;
        load(cosines + at, c);
        load(sines + at, s);
        const unsigned head = group * HEADS;
        const unsigned long long first = (row * shape.heads + head) * 2 * shape.half + column;
#pragma unroll
        for (unsigned k = 0; k < HEADS; ++k) {
            if (head + k >= shape.heads) break;
            const unsigned long long low = first + k * 2ull * shape.half, high = low + shape.half;
            const Raw raw_low = Raw::load(x + low), raw_high = Raw::load(x + high);
            float a[WIDTH], b[WIDTH];
            raw_low.unpack(a);
            raw_high.unpack(b);
            float add_low[WIDTH] = {}, add_high[WIDTH] = {};
            if (BACK && shape.add) {
                load(out + low, add_low);
                load(out + high, add_high);
            }
            for (unsigned j = 0; j < WIDTH; ++j) {
                float l, h;
                rotate<BACK>(a[j], b[j], c[j], s[j], l, h);
                a[j] = BACK ? add_low[j] + l : l;
                b[j] = BACK ? add_high[j] + h : h;
            }
            store(out + low, a);
            store(out + high, b);
        }
    }
}

template <bool BACK>
__device__ __forceinline__ void singles(bf16* out, const bf16* x, const float* cosines, const float* sines,
                                        const unsigned* positions, Shape shape) {
    const unsigned each = shape.heads * shape.half;
    const unsigned long long items = shape.rows * each;
    const unsigned long long stride = gridDim.x * (unsigned long long)blockDim.x;
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < items; i += stride) {
        const unsigned long long row = i / each;
        const unsigned item = (unsigned)(i - row * each), head = item / shape.half, column = item % shape.half;
        const unsigned long long at = (unsigned long long)positions[row] * shape.half + column;
        const unsigned long long low = (row * shape.heads + head) * 2 * shape.half + column, high = low + shape.half;
        float l, h;
        rotate<BACK>(widen(x[low]), widen(x[high]), cosines[at], sines[at], l, h);
        put(out + low, BACK && shape.add ? widen(out[low]) + l : l);
        put(out + high, BACK && shape.add ? widen(out[high]) + h : h);
    }
}

}  // namespace anneal_rope

#define ANNEAL_ROPE(NAME, BODY, BACK)                                                                            \
    extern "C" __global__ void __launch_bounds__(256)                                                            \
        NAME(__nv_bfloat16* out, const __nv_bfloat16* x, const float* cosines, const float* sines,               \
             const unsigned* positions, unsigned long long rows, unsigned heads, unsigned half, unsigned add) {  \
        anneal_rope::BODY<BACK>(out, x, cosines, sines, positions, anneal_rope::Shape{rows, heads, half, add});  \
    }

ANNEAL_ROPE(anneal_rope_forward, vectors, false)
ANNEAL_ROPE(anneal_rope_backward, vectors, true)
ANNEAL_ROPE(anneal_rope_forward_any, singles, false)
ANNEAL_ROPE(anneal_rope_backward_any, singles, true)

/// q and k rotated in place (=): q by blocks with blockIdx.y 0, k by those with 1. Heads of multiples of 16.
extern "C" __global__ void __launch_bounds__(256)
    anneal_rope_pair(__nv_bfloat16* q, __nv_bfloat16* k, const float* cosines, const float* sines,
                     const unsigned* positions, unsigned long long rows, unsigned q_heads, unsigned k_heads,
                     unsigned half) {
    anneal::next_may_begin();
    anneal::await_earlier();
    __nv_bfloat16* x = blockIdx.y == 0 ? q : k;
    const unsigned heads = blockIdx.y == 0 ? q_heads : k_heads;
    anneal_rope::vectors<false>(x, x, cosines, sines, positions, anneal_rope::Shape{rows, heads, half, 0});
}
