// AdamW in one pass over parameters, gradients and moments, in f32 arithmetic; everything is overwritten (=) in place,
// the gradient with zeros. One launch takes all parameters of a kind: its blocks find theirs in a table (group.cuh).
// What an element becomes depends neither on the table nor on the element's place.
//
// anneal_adamw_f32: f32 parameter and moments. anneal_adamw_master: a bf16 weight that is the rounded copy of an f32
// master, f32 moments. anneal_adamw_bf16: bf16 weight and moments, nothing kept in f32; all are rounded to nearest, so
// updates below half an ulp of the weight are lost. anneal_adamw_widen makes a master from a weight.
#include "../add/vector.cuh"
#include "../cuda/group.cuh"

namespace anneal_adamw {

using namespace anneal_vector;
using anneal_group::global;

/// AdamwFactors of mod.rs without `keep`, which is the entry's.
struct Factors {
    float fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale;
};

/// A parameter in the table, each array with `len` elements. `P` is what the arithmetic runs on: the parameter, or
/// where it is not of its gradient's type the master of the weight `copy`.
template <typename P, typename G, typename M>
struct Entry {
    P* p;
    bf16* copy;
    G* g;
    M *m, *v;
    unsigned long long len;
    float keep;
};

__device__ __forceinline__ void update(float& p, float g, float& m, float& v, float keep, const Factors& f) {
    // What is fused is said here: the compiler would choose, and not always the same.
    g = __fmul_rn(g, f.grad_scale);
    m = fmaf(f.fresh1, __fsub_rn(g, m), m);
    v = fmaf(__fmul_rn(f.fresh2, g), g, __fmul_rn(v, f.beta2));
    // Divisions of 2 ulp: exact ones cost more than the memory traffic of bf16 states, and an update is a small part
    // of what it is added to.
    const float denominator = __fdividef(sqrtf(v), f.correction2) + f.eps;
    p = fmaf(p, keep, -__fmul_rn(f.step_size, __fdividef(m, denominator)));
}

/// This thread's part of the group: a whole vector of its block's parameter, or one of the elements that are left.
template <typename P, typename G, typename M>
__device__ __forceinline__ void step(const unsigned long long* table, unsigned count, const Factors& f) {
    constexpr bool COPIED = sizeof(P) != sizeof(G);
    const auto part = anneal_group::find<Entry<P, G, M>>(table, count);
    const auto& entry = part.entry;
    P* const p = global(entry.p);
    bf16* const copy = COPIED ? global(entry.copy) : nullptr;
    G* const g = global(entry.g);
    M *const m = global(entry.m), *const v = global(entry.v);
    const unsigned long long thread = part.block * blockDim.x + threadIdx.x, vectors = entry.len / WIDTH;
    if (thread < vectors) {
        const unsigned long long i = thread * WIDTH;
        float pi[WIDTH], gi[WIDTH], mi[WIDTH], vi[WIDTH];
        const float zeros[WIDTH] = {};
        load(p + i, pi);
        load(g + i, gi);
        load(m + i, mi);
        load(v + i, vi);
        for (unsigned j = 0; j < WIDTH; ++j) update(pi[j], gi[j], mi[j], vi[j], entry.keep, f);
        store(p + i, pi);
        store(g + i, zeros);
        store(m + i, mi);
        store(v + i, vi);
        if (COPIED) store(copy + i, pi);
    } else if (const unsigned long long i = vectors * (WIDTH - 1) + thread; i < entry.len) {
        float pi = widen(p[i]), mi = widen(m[i]), vi = widen(v[i]);
        update(pi, widen(g[i]), mi, vi, entry.keep, f);
        put(p + i, pi);
        put(g + i, 0.f);
        put(m + i, mi);
        put(v + i, vi);
        if (COPIED) put(copy + i, pi);
    }
}

}  // namespace anneal_adamw

// Four blocks a multiprocessor at least: what is in flight hides the look into the table.
#define ANNEAL_ADAMW(NAME, P, G, M)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 4)                                                             \
        NAME(const unsigned long long* table, unsigned count, float fresh1, float beta2, float fresh2,               \
             float step_size, float correction2, float eps, float grad_scale) {                                      \
        anneal_adamw::step<P, G, M>(table, count, {fresh1, beta2, fresh2, step_size, correction2, eps, grad_scale}); \
    }

ANNEAL_ADAMW(anneal_adamw_f32, float, float, float)
ANNEAL_ADAMW(anneal_adamw_master, float, __nv_bfloat16, float)
ANNEAL_ADAMW(anneal_adamw_bf16, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16)

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
