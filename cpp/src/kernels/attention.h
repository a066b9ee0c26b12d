// kernels/attention.h - attention for encoders: each query sees the first keys, or all.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ggml.h"

#include "base/graph.h"

namespace omni {

// How many keys each query sees, counted from the first: an input of the graph.
struct Visible {
  ggml_tensor* seen = nullptr;  // [n] I32, for the kernel of ours
  ggml_tensor* mask = nullptr;  // [m, n] F16: 0 or -inf, for ggml's

  // For `n` queries and `m` keys.
  static Visible input(const Graph& g, const Device& device, int64_t m, int64_t n);
  // `seen[i]` in [1, m]. `scratch` is reused.
  void set(const Executor& executor, std::span<const int32_t> seen, std::vector<ggml_fp16_t>& scratch) const;
};

// softmax(q k^T / sqrt(head_dim)) v for every head and batch. q [width, n, batch], k and v [width, m, batch]
// contiguous, heads side by side in a row; the batch of q may be 1. q is F32, k and v are both F32 or both
// F16. Without `visible` all keys are seen; with it the batch is 1. -> [width, n * batch of k], contiguous. A
// kernel of ours on the host processor, ggml's flash attention elsewhere.
ggml_tensor* attend(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                    int64_t n_heads, const Visible& visible = {});

}  // namespace omni
