// kernels/panels_block.h - what the kernels of products with BF16 weights work on.
//
// A matrix B is held in pairs: two neighbours along the summed axis lie in one word, the first in the low
// half, and words of neighbouring columns follow each other. Processors that multiply BF16 take it so; others
// widen each half to a float by a shift.
#pragma once

#include <bit>
#include <cstdint>

namespace omni::panels {

inline constexpr int64_t kColumns = 64;  // of a panel of weights; the last panel may be narrower
inline constexpr int64_t kGroup = 16;    // columns come in whole groups
inline constexpr int64_t kRows = 6;      // rows of A that are multiplied at once

inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// To nearest, ties to even; of finite numbers.
inline uint16_t to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// out [kRows][columns] = A B. Each row of A consists of runs of 2 * depth numbers, `run_stride` apart: one
// for a matrix, one for each tap of a convolution. They are BF16 where the processor multiplies BF16, else
// F32.
struct Product {
  const void* a[kRows];
  int64_t runs;
  int64_t run_stride;
  int64_t depth;      // words of a run
  const uint32_t* b;  // [runs * depth][b_stride]
  int64_t b_stride;
  float* out;
  int64_t out_stride;
};

// What becomes of a sum; null pointers are left out.
struct Finish {
  const float* bias;
  bool gelu;
  const float* gate;      // factor of the sum
  const float* residual;  // what the sum is added to
};

// One head of attention over a cache. The keys' words hold pairs of dimensions, the values' words pairs of
// keys.
struct CachedHead {
  const float* qkv;  // rows of queries, keys and values, this head's at `offset` of each third
  int64_t row_stride;
  int64_t width;  // of a third
  int64_t offset;
  int64_t dim;
  int64_t n;                                           // new rows
  const int64_t* slots;                                // where their keys and values go
  const float *q_weight, *q_bias, *k_weight, *k_bias;  // of the norms
  float eps;
  uint32_t* keys;  // [dim / 2][keys_stride]
  int64_t keys_stride;
  uint32_t* values;  // [rows / 2][values_stride]
  int64_t values_stride;
  int64_t n_keys;
  const float* mask;  // [n_keys] added to the scores, or null
  void* out;          // rows of BF16 or F32 as `Product::a`, this head's at the beginning
  int64_t out_stride;
};

// Where a thread keeps a head, in floats.
struct HeadScratch {
  HeadScratch(int64_t dim, int64_t n_keys)
      : padded_keys(round_up(n_keys, kGroup)),
        padded_dim(round_up(dim, kGroup)),
        queries(0),
        scores(queries + kRows * padded_dim),
        weights(scores + kRows * padded_keys),
        sums(weights + kRows * padded_keys),
        size(sums + kRows * padded_dim) {}
  int64_t padded_keys;
  int64_t padded_dim;
  int64_t queries;  // [kRows][padded_dim]
  int64_t scores;   // [kRows][padded_keys]
  int64_t weights;  // [kRows][padded_keys]
  int64_t sums;     // [kRows][padded_dim]
  int64_t size;
};

}  // namespace omni::panels
