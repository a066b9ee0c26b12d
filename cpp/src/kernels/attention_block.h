// kernels/attention_block.h - what the kernel of attention works on: one head, packed.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace omni::attention {

inline constexpr int64_t kBlock = 16;  // queries that share a block of scores
inline constexpr int64_t kRows = 4;    // queries whose sums are in registers
inline constexpr int64_t kTile = 64;   // keys whose data is in the first-level cache

inline int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// One head of one batch: rows of `width` floats that hold this head at their beginning.
struct Head {
  const float* q;
  const void* k;
  const void* v;
  bool half;            // keys and values are F16, else F32
  const int32_t* seen;  // keys that each query sees, or null: all
  float* out;
  int64_t width;  // floats from row to row
  int64_t dim;    // of the head
  int64_t n_keys;
  int64_t first_query;
  int64_t last_query;  // one past
  float scale;
};

// Where a thread keeps a head, in floats.
struct Scratch {
  Scratch(int64_t dim, int64_t n_keys)
      : padded_dim(round_up(dim, 16)),
        padded_keys(round_up(n_keys, kTile)),
        keys(0),
        values(keys + dim * padded_keys),
        queries(values + padded_dim * padded_keys),
        scores(queries + kBlock * dim),
        sums(scores + kBlock * padded_keys),
        size(sums + kBlock * padded_dim) {}
  int64_t padded_dim;
  int64_t padded_keys;
  int64_t keys;     // [padded_keys, dim]
  int64_t values;   // [padded_dim, padded_keys]
  int64_t queries;  // [dim, kBlock]
  int64_t scores;   // [padded_keys, kBlock]
  int64_t sums;     // [padded_dim, kBlock]
  int64_t size;
};

inline float to_float(float x) {
  return x;
}

// Of a finite F16 number.
inline float to_float(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000U) << 16;
  const uint32_t rest = static_cast<uint32_t>(x & 0x7fffU) << 13;
  return std::bit_cast<float>(sign | rest) * 0x1p112F;  // between the biases of the exponents
}

// Keys as columns, values as rows, zeros where there are none.
template <typename T>
void pack_as(const Head& h, const Scratch& s, float* scratch) {
  const T* from_keys = static_cast<const T*>(h.k);
  const T* from_values = static_cast<const T*>(h.v);
  float* keys = scratch + s.keys;
  for (int64_t first = 0; first < s.padded_keys; first += 16) {
    const int64_t count = std::clamp<int64_t>(h.n_keys - first, 0, 16);
    for (int64_t d = 0; d < h.dim; ++d) {
      float* to = keys + d * s.padded_keys + first;
      for (int64_t i = 0; i < count; ++i) to[i] = to_float(from_keys[(first + i) * h.width + d]);
      std::fill(to + count, to + 16, 0.0F);
    }
  }
  float* values = scratch + s.values;
  for (int64_t i = 0; i < s.padded_keys; ++i) {
    float* to = values + i * s.padded_dim;
    const int64_t count = i < h.n_keys ? h.dim : 0;
    for (int64_t d = 0; d < count; ++d) to[d] = to_float(from_values[i * h.width + d]);
    std::fill(to + count, to + s.padded_dim, 0.0F);
  }
}

inline void pack(const Head& h, const Scratch& s, float* scratch) {
  if (h.half) {
    pack_as<uint16_t>(h, s, scratch);
  } else {
    pack_as<float>(h, s, scratch);
  }
}

// A product: out [columns, kRows] (+)= a [depth, kRows] b [columns, depth]; strides in floats.
struct Product {
  const float* a;
  int64_t a_stride;
  const float* b;
  int64_t b_stride;
  int64_t depth;
  float* out;
  int64_t out_stride;
  bool add;
};

}  // namespace omni::attention
