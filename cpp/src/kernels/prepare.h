// kernels/prepare.h - what a signal goes through on its way to a product: a norm or a nonlinearity, the rows
// that a convolution sees before and behind it, and the type that the product reads.
//
// On the host processor that is one pass over memory; elsewhere it is composed of ggml's own operators.
// Signals are F32 [width, n, batch].
#pragma once

#include <string>

#include "base/graph.h"
#include "base/weights.h"

namespace omni {

// x + sin^2(alpha x) / (alpha + 1e-9), alpha for each channel.
struct Snake {
  ggml_tensor* alpha = nullptr;    // [channels]
  ggml_tensor* inverse = nullptr;  // [channels], 1 / (alpha + 1e-9)
};

// Declares `name`.alpha [channels].
Snake load_snake(Weights& weights, const std::string& name, int64_t channels);

// Rows beside a result's own.
struct Edges {
  int64_t before = 0;
  int64_t after = 0;  // zeros
  // The rows before: the last ones of the result before this one, [width, before, batch] of `type`, which
  // this result renews. Null: zeros.
  ggml_tensor* past = nullptr;
};

class Prepare {
 public:
  // For products that read `type`.
  Prepare(const Graph& g, const Device& device, ggml_type type = GGML_TYPE_F32)
      : g_(g), fused_(has_kernels(device)), type_(type) {}

  // The normal form of every row times w plus b, both [width]; then mish, x tanh(ln(1 + e^x)), if asked for.
  ggml_tensor* norm(ggml_tensor* x, ggml_tensor* w, ggml_tensor* b, float eps, const Edges& edges = {}) const;
  ggml_tensor* norm_mish(ggml_tensor* x, ggml_tensor* w, ggml_tensor* b, float eps,
                         const Edges& edges = {}) const;
  ggml_tensor* snake(ggml_tensor* x, const Snake& snake, const Edges& edges = {}) const;
  ggml_tensor* leaky(ggml_tensor* x, float slope, const Edges& edges = {}) const;
  // As it is.
  ggml_tensor* copy(ggml_tensor* x, const Edges& edges = {}) const;

 private:
  static bool has_kernels(const Device& device);
  ggml_tensor* fused(int kind, float number, ggml_tensor* x, ggml_tensor* a, ggml_tensor* b,
                     const Edges& edges) const;
  ggml_tensor* joined(ggml_tensor* x, const Edges& edges) const;

  const Graph& g_;
  bool fused_;
  ggml_type type_;
};

}  // namespace omni
