// Rows of a bf16 table by index, and sums of rows by index.
//
// anneal_embedding_gather overwrites (=) `out`: a copy. anneal_embedding_scatter adds (+=) to `table`: a block takes a
// destination row and sums its sources in f32 in the order of the list, so nothing is atomic and the table is rounded
// once a call. The host sorts the list. The `_any` kernels take every width, the others multiples of 8.
#include "../add/vector.cuh"

namespace anneal_embedding {

using namespace anneal_vector;

/// Source rows whose loads are in flight at once.
constexpr unsigned AHEAD = 4;

__device__ __forceinline__ void add(float (&sum)[WIDTH], const Raw& raw) {
    float x[WIDTH];
    raw.unpack(x);
    for (unsigned j = 0; j < WIDTH; ++j) sum[j] += x[j];
}

}  // namespace anneal_embedding

/// out[i] = table[ids[i]]
extern "C" __global__ void __launch_bounds__(256)
    anneal_embedding_gather(__nv_bfloat16* out, const __nv_bfloat16* table, const unsigned* ids,
                            unsigned long long rows, unsigned width) {
    for (unsigned long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const uint4* from = reinterpret_cast<const uint4*>(table + (unsigned long long)ids[row] * width);
        uint4* to = reinterpret_cast<uint4*>(out + row * width);
        for (unsigned i = threadIdx.x; i < width / 8; i += blockDim.x) to[i] = from[i];
    }
}

extern "C" __global__ void __launch_bounds__(256)
    anneal_embedding_gather_any(__nv_bfloat16* out, const __nv_bfloat16* table, const unsigned* ids,
                                unsigned long long rows, unsigned width) {
    for (unsigned long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const __nv_bfloat16* from = table + (unsigned long long)ids[row] * width;
        for (unsigned i = threadIdx.x; i < width; i += blockDim.x) out[row * width + i] = from[i];
    }
}

/// table[ids[r]] += sum over k in starts[r] .. starts[r + 1] of d[order[k]]; ids are distinct, one grid row each.
extern "C" __global__ void __launch_bounds__(128)
    anneal_embedding_scatter(__nv_bfloat16* table, const __nv_bfloat16* d, const unsigned* ids, const unsigned* starts,
                             const unsigned* order, unsigned width) {
    using namespace anneal_embedding;
    const unsigned column = (blockIdx.y * blockDim.x + threadIdx.x) * WIDTH;
    if (column >= width) return;
    const unsigned end = starts[blockIdx.x + 1];
    unsigned k = starts[blockIdx.x];
    float sum[WIDTH] = {};
    for (; k + AHEAD <= end; k += AHEAD) {
        Raw raw[AHEAD];
#pragma unroll
        for (unsigned a = 0; a < AHEAD; ++a) raw[a] = Raw::load(d + (unsigned long long)order[k + a] * width + column);
#pragma unroll
        for (unsigned a = 0; a < AHEAD; ++a) add(sum, raw[a]);
    }
    for (; k < end; ++k) add(sum, Raw::load(d + (unsigned long long)order[k] * width + column));
    __nv_bfloat16* to = table + (unsigned long long)ids[blockIdx.x] * width + column;
    float old[WIDTH];
    load(to, old);
    for (unsigned j = 0; j < WIDTH; ++j) sum[j] += old[j];
    store(to, sum);
}

extern "C" __global__ void __launch_bounds__(128)
    anneal_embedding_scatter_any(__nv_bfloat16* table, const __nv_bfloat16* d, const unsigned* ids,
                                 const unsigned* starts, const unsigned* order, unsigned width) {
    using namespace anneal_vector;
    const unsigned column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (unsigned k = starts[blockIdx.x]; k < starts[blockIdx.x + 1]; ++k) {
        sum += widen(d[(unsigned long long)order[k] * width + column]);
    }
    __nv_bfloat16* to = table + (unsigned long long)ids[blockIdx.x] * width + column;
    put(to, widen(*to) + sum);
}
