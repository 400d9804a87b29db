//! The kernels of attention for compute capability 9.0: entry points, with the parameters of those in `attention.cu`
//! (the key kernel has no `stages`), 384 threads and the shared memory that `cuda_choice.rs` computes as the bodies do.

#include "hopper_forward.cuh"
#include "hopper_kv.cuh"
#include "hopper_q.cuh"

using attention::KeyEntry;
using attention::KeyTile;
using attention::QueryTile;

#ifdef ANNEAL_WGMMA
#define ANNEAL_BODY(CALL) attention::CALL
#else
// Never chosen; and were it, an error rather than results that nobody wrote.
#define ANNEAL_BODY(CALL) __trap()
#endif

#define ATTENTION_HOPPER(D)                                                                                           \
    extern "C" __global__ void __launch_bounds__(attention::HOPPER_THREADS, 1) anneal_attention_hopper_forward_##D(   \
        const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse, const QueryTile* tiles, int n_heads,      \
        int n_kv_heads, int dim, float scale) {                                                                       \
        ANNEAL_BODY(hopper_forward<D>(q, k, v, out, lse, tiles, n_heads, n_kv_heads, dim, scale));                    \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(attention::HOPPER_THREADS, 1) anneal_attention_hopper_kv_##D(        \
        const bf16* q, const bf16* k, const bf16* v, const bf16* d, const float2* stats, bf16* d_k, bf16* d_v,        \
        const KeyTile* tiles, const KeyEntry* entries, int n_heads, int n_kv_heads, int dim, float scale) {           \
        ANNEAL_BODY(hopper_kv<D>(q, k, v, d, stats, d_k, d_v, tiles, entries, n_heads, n_kv_heads, dim, scale));      \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(attention::HOPPER_THREADS, 1) anneal_attention_hopper_q_##D(         \
        const bf16* q, const bf16* k, const bf16* v, const bf16* d, const float2* stats, bf16* d_q,                   \
        const QueryTile* tiles, int n_heads, int n_kv_heads, int dim, float scale) {                                  \
        ANNEAL_BODY(hopper_q<D>(q, k, v, d, stats, d_q, tiles, n_heads, n_kv_heads, dim, scale));                     \
    }

ATTENTION_HOPPER(64)
ATTENTION_HOPPER(128)
