// AdamW in one pass over parameter, gradient and moments, in f32 arithmetic; everything is overwritten (=) in place.
//
// anneal_adamw_f32: f32 parameter and moments. anneal_adamw_master: a bf16 weight that is the rounded copy of an f32
// master, f32 moments. anneal_adamw_bf16: bf16 weight and moments, nothing kept in f32; all are rounded to nearest, so
// updates below half an ulp of the weight are lost. anneal_adamw_widen makes a master from a weight.
#include "../add/vector.cuh"

namespace anneal_adamw {

using namespace anneal_vector;

/// AdamwFactors of mod.rs, field by field.
struct Factors {
    float keep, fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale;
};

__device__ __forceinline__ void update(float& p, float g, float& m, float& v, const Factors& f) {
    g *= f.grad_scale;
    m = fmaf(f.fresh1, g - m, m);
    v = fmaf(f.fresh2 * g, g, v * f.beta2);
    // Divisions of 2 ulp: exact ones cost more than the memory traffic of bf16 states, and an update is a small part
    // of what it is added to.
    const float denominator = __fdividef(sqrtf(v), f.correction2) + f.eps;
    p = p * f.keep - f.step_size * __fdividef(m, denominator);
}

/// `P` is what the arithmetic runs on: the parameter, or the master of the weight `copy`.
template <typename P, typename G, typename M>
__device__ __forceinline__ void step(P* p, bf16* copy, const G* g, M* m, M* v, unsigned long long len,
                                     const Factors& f) {
    for_each(
        len,
        [=](unsigned long long i) {
            float pi[WIDTH], gi[WIDTH], mi[WIDTH], vi[WIDTH];
            load(p + i, pi);
            load(g + i, gi);
            load(m + i, mi);
            load(v + i, vi);
            for (unsigned j = 0; j < WIDTH; ++j) update(pi[j], gi[j], mi[j], vi[j], f);
            store(p + i, pi);
            store(m + i, mi);
            store(v + i, vi);
            if (copy != nullptr) store(copy + i, pi);
        },
        [=](unsigned long long i) {
            float pi = widen(p[i]), mi = widen(m[i]), vi = widen(v[i]);
            update(pi, widen(g[i]), mi, vi, f);
            put(p + i, pi);
            put(m + i, mi);
            put(v + i, vi);
            if (copy != nullptr) put(copy + i, pi);
        });
}

}  // namespace anneal_adamw

#define ANNEAL_ADAMW_FACTORS \
    float keep, float fresh1, float beta2, float fresh2, float step_size, float correction2, float eps, float grad_scale
#define ANNEAL_ADAMW_GATHERED \
    anneal_adamw::Factors { keep, fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale }

extern "C" __global__ void __launch_bounds__(256)
    anneal_adamw_f32(float* p, const float* g, float* m, float* v, unsigned long long len, ANNEAL_ADAMW_FACTORS) {
    anneal_adamw::step(p, (__nv_bfloat16*)nullptr, g, m, v, len, ANNEAL_ADAMW_GATHERED);
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_adamw_master(float* master, __nv_bfloat16* weight, const __nv_bfloat16* g, float* m, float* v,
                        unsigned long long len, ANNEAL_ADAMW_FACTORS) {
    anneal_adamw::step(master, weight, g, m, v, len, ANNEAL_ADAMW_GATHERED);
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_adamw_bf16(__nv_bfloat16* p, const __nv_bfloat16* g, __nv_bfloat16* m, __nv_bfloat16* v,
                      unsigned long long len, ANNEAL_ADAMW_FACTORS) {
    anneal_adamw::step(p, (__nv_bfloat16*)nullptr, g, m, v, len, ANNEAL_ADAMW_GATHERED);
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_adamw_widen(float* master, const __nv_bfloat16* weight, unsigned long long len) {
    using namespace anneal_vector;
    for_each(
        len,
        [=](unsigned long long i) {
            float v[WIDTH];
            load(weight + i, v);
            store(master + i, v);
        },
        [=](unsigned long long i) { master[i] = widen(weight[i]); });
}
