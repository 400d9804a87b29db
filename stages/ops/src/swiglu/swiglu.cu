// SwiGLU on bf16 arrays: out = gate * s * up with s = 1 / (1 + e^-gate), all in f32 between load and store.
//
// Fused: sigmoid, both products, and in the backward both derivatives from one s.
// anneal_swiglu_forward overwrites (=) `out`. anneal_swiglu_backward adds (+=) to `d_up`, or overwrites it
// if that is unwritten, and overwrites (=) `d`, which
// comes in as the output's gradient and leaves as gate's.
#include "../add/vector.cuh"

namespace anneal_swiglu {

// e^-gate may be infinite, then s is 0. The fast division is exact enough for bf16 (2 ulp of f32) and gives 0 for
// divisors above 2^126, where s is below the smallest normal number.
__device__ __forceinline__ float sigmoid(float gate) { return __fdividef(1.0f, 1.0f + __expf(-gate)); }

__device__ __forceinline__ float forward(float gate, float up) { return gate * sigmoid(gate) * up; }

__device__ __forceinline__ void backward(float gate, float up, float& d, float& d_up) {
    const float s = sigmoid(gate), silu = gate * s;
    d_up = fmaf(d, silu, d_up);
    // s (1 + g (1 - s)), with g s taken once
    d = d * up * fmaf(silu, 1.0f - s, s);
}

}  // namespace anneal_swiglu

extern "C" __global__ void __launch_bounds__(256)
    anneal_swiglu_forward(__nv_bfloat16* out, const __nv_bfloat16* gate, const __nv_bfloat16* up,
                          unsigned long long len) {
    using namespace anneal_vector;
    for_each(
        len,
        [=](unsigned long long i) {
            float g[WIDTH], u[WIDTH];
            const Raw rg = Raw::load(gate + i), ru = Raw::load(up + i);
            rg.unpack(g);
            ru.unpack(u);
            for (unsigned j = 0; j < WIDTH; ++j) g[j] = anneal_swiglu::forward(g[j], u[j]);
            store(out + i, g);
        },
        [=](unsigned long long i) { put(out + i, anneal_swiglu::forward(widen(gate[i]), widen(up[i]))); });
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_swiglu_backward(__nv_bfloat16* d, __nv_bfloat16* d_up, const __nv_bfloat16* gate, const __nv_bfloat16* up,
                           unsigned long long len, unsigned unwritten) {
    using namespace anneal_vector;
    for_each(
        len,
        [=](unsigned long long i) {
            float g[WIDTH], u[WIDTH], a[WIDTH], b[WIDTH];
            const Raw rg = Raw::load(gate + i), ru = Raw::load(up + i), ra = Raw::load(d + i);
            const Raw rb = unwritten ? Raw::zero() : Raw::load(d_up + i);
            rg.unpack(g);
            ru.unpack(u);
            ra.unpack(a);
            rb.unpack(b);
            for (unsigned j = 0; j < WIDTH; ++j) anneal_swiglu::backward(g[j], u[j], a[j], b[j]);
            store(d + i, a);
            store(d_up + i, b);
        },
        [=](unsigned long long i) {
            float a = widen(d[i]), b = unwritten ? 0.0f : widen(d_up[i]);
            anneal_swiglu::backward(widen(gate[i]), widen(up[i]), a, b);
            put(d + i, a);
            put(d_up + i, b);
        });
}
