// kernels/quantized_block.h - what the products of quantised weights work on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace omni::quantized {

inline constexpr int64_t kBlock = 256;  // elements that share a scale, of weights and of activations

// ggml's formats of 256 weights whose products run here.
enum class Format { q4_k, q5_k, q6_k };

// How activations are multiplied: as numbers of -127..127, or those with 128 added.
enum class Sign { with, without };

// 256 activations of one column: x = scale * q.
struct alignas(64) Activations {
  uint8_t q[kBlock];  // bit patterns of int8_t, or 128 more
  float sums[8];      // of 32 neighbours each, without the 128
  float scale;
};

// Weights [in, rows]: `row_bytes` from row to row.
struct Matrix {
  Format format;
  const uint8_t* data;
  size_t row_bytes;
  int64_t in;
  int64_t rows;
};

// out [rows, n] = weights * activations, for the rows from `first` up to `last`. x holds the blocks of all
// columns side by side: first block 0 of every column, then block 1 of every column.
struct Product {
  Matrix weights;
  const Activations* x;
  int64_t n;
  float* out;
  int64_t first;
  int64_t last;
};

// 256 activations for products with few columns.
struct alignas(64) Column {
  uint8_t q[kBlock];  // bit patterns of int8_t
  int16_t sums[16];   // of 16 neighbours each
  float scale;
};

// The same product for few columns: x holds one column after the other.
struct FewProduct {
  Matrix weights;
  const Column* x;
  int64_t n;
  float* out;
  int64_t first;
  int64_t last;
};

// Centred weights want activations without a sign: then what the added 128 gives is the same for every
// column.
inline Sign sign_for(Format format) {
  return format == Format::q6_k ? Sign::without : Sign::with;
}

}  // namespace omni::quantized
