// token2wav/time_conv.h - convolutions over time, as sums of matrix products over shifted rows.
#pragma once

#include <string>
#include <vector>

#include "base/weights.h"
#include "kernels/linear.h"

namespace omni {

// One matrix [in, out] for each tap. Rows are time, so a tap is a product with rows that start later.
struct TimeConv {
  std::vector<ggml_tensor*> taps;
  ggml_tensor* bias = nullptr;  // [out] F32, or null
};

struct TimeConvShape {
  int stride = 1;
  int dilation = 1;
  int left = 0;   // zero rows before the first
  int right = 0;  // and after the last
};

// Declares `name`.weight, stored as [taps, in, out], and `name`.bias [out] if asked for.
TimeConv load_time_conv(Weights& weights, const std::string& name, int64_t taps, int64_t in, int64_t out,
                        Bias bias);

// x [in, n] F32 -> [out, (n + left + right - dilation * (taps - 1) - 1) / stride + 1] F32.
ggml_tensor* time_conv(ggml_context* ctx, const TimeConv& layer, ggml_tensor* x, const TimeConvShape& shape);

// All elements of a stored tensor as F32.
void read_floats(const GgufTensor& source, float* out);

}  // namespace omni
