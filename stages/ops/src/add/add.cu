// Addition of bf16 arrays, computed in f32 and rounded once. Nothing is fused.
//
// anneal_add overwrites (=) `out`; anneal_add_accumulate adds (+=) to `slot`.
#include "vector.cuh"

extern "C" __global__ void __launch_bounds__(256)
    anneal_add(__nv_bfloat16* out, const __nv_bfloat16* x, const __nv_bfloat16* y, unsigned long long len) {
    using namespace anneal_vector;
    for_each(
        len,
        [=](unsigned long long i) {
            float a[WIDTH], b[WIDTH];
            const Raw ra = Raw::load(x + i), rb = Raw::load(y + i);
            ra.unpack(a);
            rb.unpack(b);
            for (unsigned j = 0; j < WIDTH; ++j) a[j] += b[j];
            store(out + i, a);
        },
        [=](unsigned long long i) { put(out + i, widen(x[i]) + widen(y[i])); });
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_add_accumulate(__nv_bfloat16* slot, const __nv_bfloat16* d, unsigned long long len) {
    using namespace anneal_vector;
    for_each(
        len,
        [=](unsigned long long i) {
            float a[WIDTH], b[WIDTH];
            const Raw ra = Raw::load(slot + i), rb = Raw::load(d + i);
            ra.unpack(a);
            rb.unpack(b);
            for (unsigned j = 0; j < WIDTH; ++j) a[j] += b[j];
            store(slot + i, a);
        },
        [=](unsigned long long i) { put(slot + i, widen(slot[i]) + widen(d[i])); });
}
