// kernels/panels.h - products and attention on the host processor with numbers held as BF16.
//
// ggml's products unfold a convolution and round its rows anew for every tap, and its attention turns keys
// and values over with every call. Here weights are packed once, in panels of columns; convolutions read
// their rows where they are; caches hold keys and values as the products want them. Weights and caches are
// BF16 on every processor; where it multiplies BF16, the other factor is rounded, too. linear() and conv1d()
// come here by themselves for layers that are held in panels.
#pragma once

#include <cstdint>
#include <span>

#include "base/graph.h"

namespace omni::panels {

// Whether this build and device can.
bool available(const Device& device);

// What products want to read: BF16 where the processor multiplies it, else F32. Either is taken.
ggml_type input_type();

// [in, out] F32, row after row, to the order of panels; `to` takes in * padded_outputs(out) numbers. `in` is
// even.
void pack(const float* rows, int64_t in, int64_t out, float* to);
int64_t padded_outputs(int64_t out);

// A weight of `out` columns, in panels: BF16 [kernel * in, padded_outputs(out)].
struct Matrix {
  ggml_tensor* weight = nullptr;
  ggml_tensor* bias = nullptr;  // [out], or null
  int64_t out = 0;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
};

// What happens to the products, in this order.
struct After {
  bool gelu = false;                // the tanh form
  ggml_tensor* gate = nullptr;      // [out], a factor
  ggml_tensor* residual = nullptr;  // [out, n, batch], added
};

// x [in, n + (kernel - 1) dilation, batch] -> F32 [out, n / stride, batch].
ggml_tensor* multiply(ggml_context* ctx, const Matrix& matrix, ggml_tensor* x, const After& after = {});

// Keys and values of a sequence: `rows` rows (even) in any order, several in one tensor.
struct CacheShape {
  int64_t dim = 0;  // of a head, even
  int64_t n_heads = 0;
  int64_t rows = 0;
  int64_t batch = 1;

  int64_t key_columns() const;    // words of a pair of dimensions: rows, padded
  int64_t value_columns() const;  // words of a pair of rows: the width, padded
};

// Rows of keys and values [width], as many as there are, to the words of one sequence from its first row on.
void pack_keys(const CacheShape& shape, std::span<const float> rows, std::span<uint32_t> words);
void pack_values(const CacheShape& shape, std::span<const float> rows, std::span<uint32_t> words);

// Norms of the queries and keys of one head, each [dim].
struct HeadNorms {
  ggml_tensor *q_weight, *q_bias, *k_weight, *k_bias;
  float eps;
};

// Writes the keys and values of new rows, then softmax(q k^T / sqrt(dim)) v over the cache's first n_keys
// rows. qkv [3 width, n, batch] F32; keys I32 [key_columns, width / 2, batch]; values I32 [value_columns,
// rows / 2, batch]; slots [n] I64, where the new rows go; mask [n_keys] F32, 0 or -inf for each key, or null.
// -> [width, n, batch] of input_type().
ggml_tensor* attend(ggml_context* ctx, const Device& device, ggml_tensor* qkv, const HeadNorms& norms,
                    const CacheShape& shape, ggml_tensor* keys, ggml_tensor* values, ggml_tensor* slots,
                    ggml_tensor* mask, int64_t n_keys);

}  // namespace omni::panels
