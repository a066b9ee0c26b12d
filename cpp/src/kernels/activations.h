// kernels/activations.h - nonlinearities that ggml lacks.
//
// On the host processor each is one pass over memory; elsewhere they are composed of ggml's own operators.
#pragma once

#include <string>

#include "base/weights.h"

namespace omni {

// x + sin^2(alpha x) / (alpha + 1e-9), alpha for each channel.
struct Snake {
  ggml_tensor* alpha = nullptr;    // [channels]
  ggml_tensor* inverse = nullptr;  // [channels], 1 / (alpha + 1e-9)
};

// Declares `name`.alpha [channels].
Snake load_snake(Weights& weights, const std::string& name, int64_t channels);

// The graphs of one device: which of the two forms it gets.
class Activations {
 public:
  explicit Activations(const Device& device) : fused_(device.is_host()) {}

  ggml_tensor* snake(ggml_context* ctx, const Snake& snake, ggml_tensor* x) const;  // x [channels, n]
  // x tanh(ln(1 + e^x))
  ggml_tensor* mish(ggml_context* ctx, ggml_tensor* x) const;

 private:
  bool fused_;
};

}  // namespace omni
