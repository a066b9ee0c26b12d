// kernels/conv1d.h - convolutions over time as products through linear().
//
// Signals are [channels, time]: a window of consecutive frames is then one run of memory, so unfolding copies
// whole rows, and what comes before and after a convolution (norms, gates, other products) needs no
// transpose. Taps that are held in panels (kernels/panels.h) read the signal where it is.
#pragma once

#include <string>

#include "kernels/linear.h"

namespace omni {

struct Conv1d {
  Linear taps;  // weight [kernel * in, out], tap after tap
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t dilation = 1;

  // Frames before the current one that a causal convolution needs.
  int64_t reach() const { return (kernel - 1) * dilation; }
};

// Declares `name`.weight, stored [kernel, in, out], and `name`.bias [out] if asked for.
Conv1d load_conv1d(Weights& weights, const std::string& name, int64_t kernel, int64_t in, int64_t out,
                   const LinearPolicy& policy = {}, int64_t stride = 1, int64_t dilation = 1,
                   Bias bias = Bias::required);

// x [in, n, batch] -> [out, (n - reach - 1) / stride + 1, batch]; nothing is padded.
ggml_tensor* conv1d(ggml_context* ctx, const Conv1d& conv, ggml_tensor* x);

// x with zero frames before and behind it.
ggml_tensor* with_zeros(ggml_context* ctx, ggml_tensor* x, int64_t before, int64_t behind);

// `to` + gate * conv1d(), with `gate` [out] or null.
ggml_tensor* conv1d_onto(ggml_context* ctx, const Conv1d& conv, ggml_tensor* x, ggml_tensor* to,
                         ggml_tensor* gate);

}  // namespace omni
