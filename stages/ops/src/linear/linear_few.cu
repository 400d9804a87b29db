// The linear map for few rows of x: entry points; the bodies are in few.cuh and few_branch.cuh.
//
// Fused: up to three modules of one input, LoRA branches in f32, bias, residual, or SwiGLU of two modules. Overwrites (=)
// outputs, u and the flags. A kernel's suffix is the number of rows of x that it has room for. The width is a multiple of
// 8; addresses are multiples of 16. sm_80 instructions only (mma.sync, cp.async), and on sm_90 those of launch_early.
#include "few.cuh"

using linear_few::Common;
using linear_few::Module;

#define LINEAR_FEW(NAME, BODY, MT, NT, STAGES, BLOCKS)                                                               \
    extern "C" __global__ void __launch_bounds__(256, BLOCKS) NAME(                                                  \
        const bf16* x, const bf16* onto, float* u, unsigned* ready, unsigned low_blocks, unsigned low_outs,          \
        unsigned epoch, unsigned rows, unsigned width, unsigned wide, const bf16* weight0, void* out0,               \
        const float* bias0,                                                                                          \
        const float* a0, const float* b0, unsigned outs0, unsigned rank0, float scaling0, const bf16* weight1,       \
        void* out1, const float* bias1, const float* a1, const float* b1, unsigned outs1, unsigned rank1,            \
        float scaling1, const bf16* weight2, void* out2, const float* bias2, const float* a2, const float* b2,       \
        unsigned outs2, unsigned rank2, float scaling2) {                                                            \
        const Common common = {x, onto, u, ready, low_blocks, low_outs, epoch, rows, width, wide};                   \
        const Module m0 = {weight0, out0, bias0, a0, b0, outs0, rank0, scaling0};                                    \
        const Module m1 = {weight1, out1, bias1, a1, b1, outs1, rank1, scaling1};                                    \
        const Module m2 = {weight2, out2, bias2, a2, b2, outs2, rank2, scaling2};                                    \
        linear_few::BODY<MT, NT, STAGES>(common, m0, m1, m2);                                                        \
    }

// Tiles of 16 weight rows, of 8 rows of x, steps ahead, blocks that registers allow a multiprocessor: cuda_few.rs has the
// same numbers.
LINEAR_FEW(anneal_linear_few_8, product, 1, 1, 6, 3)
LINEAR_FEW(anneal_linear_few_16, product, 2, 2, 4, 2)
LINEAR_FEW(anneal_linear_few_32, product, 2, 4, 3, 2)
LINEAR_FEW(anneal_linear_few_64, product, 2, 8, 3, 1)
LINEAR_FEW(anneal_linear_few_gated_8, gated, 2, 1, 4, 2)
LINEAR_FEW(anneal_linear_few_gated_16, gated, 2, 2, 4, 2)
LINEAR_FEW(anneal_linear_few_gated_32, gated, 2, 4, 3, 2)
LINEAR_FEW(anneal_linear_few_gated_64, gated, 2, 8, 3, 1)
