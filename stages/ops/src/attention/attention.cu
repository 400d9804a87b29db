//! The kernels of varlen causal attention with grouped key/value heads: entry points; the bodies are beside this file.
//!
//! q, out, d, d_q: bf16 [rows, n_heads * dim]; k, v, d_k, d_v: bf16 [rows, n_kv_heads * dim]; lse: f32 [rows, n_heads].
//! Fused: scores, mask, softmax and the product with V; backward computes probabilities again from lse. Everything
//! written is overwritten (=), nothing is accumulated in global memory; every sum has a fixed order. A kernel's suffix
//! is the head size its tiles have room for: `dim` may be any multiple of 8 up to that, the rest is zero.
//! sm_80 instructions only (mma.sync, ldmatrix, cp.async), and on sm_90 those of launch_early.

#include "backward_kv.cuh"
#include "backward_q.cuh"
#include "decode.cuh"
#include "decode_tiles.cuh"
#include "forward.cuh"
#include "plain.cuh"

using attention::KeyEntry;
using attention::KeyTile;
using attention::QueryTile;

#define ATTENTION_KERNELS(D, FORWARD, BACKWARD)                                                                       \
    extern "C" __global__ void __launch_bounds__(128, FORWARD) anneal_attention_forward_##D(                          \
        const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse, const QueryTile* tiles, int n_heads,      \
        int n_kv_heads, int dim, float scale) {                                                                       \
        attention::forward<D>(q, k, v, out, lse, tiles, n_heads, n_kv_heads, dim, scale);                             \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128, BACKWARD) anneal_attention_backward_kv_##D(                     \
        const bf16* q, const bf16* k, const bf16* v, const bf16* d, const float2* stats, bf16* d_k, bf16* d_v,        \
        const KeyTile* tiles, const KeyEntry* entries, int n_heads, int n_kv_heads, int dim, float scale,             \
        int stages) {                                                                                                 \
        attention::backward_kv<D>(q, k, v, d, stats, d_k, d_v, tiles, entries, n_heads, n_kv_heads, dim, scale,       \
                                  stages);                                                                            \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(128, BACKWARD) anneal_attention_backward_q_##D(                      \
        const bf16* q, const bf16* k, const bf16* v, const bf16* d, const float2* stats, bf16* d_q,                   \
        const QueryTile* tiles, int n_heads, int n_kv_heads, int dim, float scale) {                                  \
        attention::backward_q<D>(q, k, v, d, stats, d_q, tiles, n_heads, n_kv_heads, dim, scale);                     \
    }

// Blocks a multiprocessor that registers must allow: two of 255 registers a thread, three of 168.
ATTENTION_KERNELS(64, 2, 3)
ATTENTION_KERNELS(80, 2, 2)
ATTENTION_KERNELS(96, 2, 2)
ATTENTION_KERNELS(128, 2, 2)

/// stats: float2 [rows, n_heads]. Grid: 8 lanes a pair; dim a multiple of 8.
extern "C" __global__ void __launch_bounds__(128)
    anneal_attention_statistics(const bf16* out, const bf16* d, const float* lse, float2* stats,
                                unsigned long long pairs, int dim) {
    attention::statistics<true>(out, d, lse, stats, pairs, dim);
}

/// As above for any dim; 32 lanes a pair.
extern "C" __global__ void __launch_bounds__(128)
    anneal_attention_statistics_plain(const bf16* out, const bf16* d, const float* lse, float2* stats,
                                      unsigned long long pairs, int dim) {
    attention::statistics<false>(out, d, lse, stats, pairs, dim);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    anneal_attention_forward_plain(const bf16* q, const bf16* k, const bf16* v, bf16* out, float* lse,
                                   const QueryTile* tiles, int n_heads, int n_kv_heads, int dim, float scale) {
    attention::plain_forward(q, k, v, out, lse, tiles, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    anneal_attention_backward_kv_plain(const bf16* q, const bf16* k, const bf16* v, const bf16* d,
                                       const float2* stats, bf16* d_k, bf16* d_v, const KeyTile* tiles,
                                       const KeyEntry* entries, int n_heads, int n_kv_heads, int dim, float scale) {
    attention::plain_backward_kv(q, k, v, d, stats, d_k, d_v, tiles, entries, n_heads, n_kv_heads, dim, scale);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    anneal_attention_backward_q_plain(const bf16* q, const bf16* k, const bf16* v, const bf16* d, const float2* stats,
                                      bf16* d_q, const QueryTile* tiles, int n_heads, int n_kv_heads, int dim,
                                      float scale) {
    attention::plain_backward_q(q, k, v, d, stats, d_q, tiles, n_heads, n_kv_heads, dim, scale);
}

#define ATTENTION_DECODE(NAME, BODY)                                                                                   \
    extern "C" __global__ void __launch_bounds__(128, 5) anneal_attention_decode_##NAME(                              \
        const bf16* q, const bf16* k, const bf16* v, const attention::Sequence* sequences, int step, float* parts,    \
        float2* stats, int n_heads, int n_kv_heads, int dim, float scale) {                                           \
        anneal::next_may_begin();                                                                                     \
        attention::BODY(q, k, v, sequences, step, parts, stats, n_heads, n_kv_heads, dim, scale);                     \
    }

ATTENTION_DECODE(64, decode_tiles<64>)
ATTENTION_DECODE(80, decode_tiles<80>)
ATTENTION_DECODE(96, decode_tiles<96>)
ATTENTION_DECODE(128, decode_tiles<128>)
ATTENTION_DECODE(wide_1, wide_decode<1>)
ATTENTION_DECODE(wide_2, wide_decode<2>)
ATTENTION_DECODE(wide_4, wide_decode<4>)

extern "C" __global__ void __launch_bounds__(256)
    anneal_attention_decode_merge(const float* parts, const float2* stats, const attention::Sequence* sequences,
                                  int step, bf16* out, int n_heads, int dim, int splits) {
    anneal::next_may_begin();
    anneal::await_earlier();
    attention::decode_merge(parts, stats, sequences, step, out, n_heads, dim, splits);
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_attention_copy(const bf16* k, const bf16* v, bf16* to_k, bf16* to_v, unsigned long long len) {
    attention::copy(k, v, to_k, to_v, len);
}
