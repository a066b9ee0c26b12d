// kernels/gelu.cpp - bias and GELU in one pass over the activations.
#include "kernels/gelu.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/vectorize.h"

namespace omni {
namespace {

// e^x for |x| <= 87 with a relative error below 2e-7: 2^n times a polynomial on [-ln2/2, ln2/2].
inline float exponential(float x) {
  constexpr float kShift = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  const float shifted = x * 1.44269504F + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0.693145752F) - n * 1.42860677e-6F;  // ln 2 in two parts
  float p = 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kShift) + 127U;
  return p * std::bit_cast<float>(exponent << 23);
}

// 0.5 (1 + tanh(u / 2)) = 1 / (1 + e^-u).
OMNI_WIDE_VECTORS void gelu_row(float* x, const float* bias, int64_t n) {
  constexpr float kTwice = 1.59576912F;  // 2 sqrt(2 / pi)
  for (int64_t i = 0; i < n; ++i) {
    const float z = x[i] + bias[i];
    float u = -kTwice * z * (1.0F + 0.044715F * z * z);
    u = u < -87.0F ? -87.0F : u;
    u = u > 87.0F ? 87.0F : u;
    x[i] = z / (1.0F + exponential(u));
  }
}

void gelu_rows(ggml_tensor* dst, const ggml_tensor* x, const ggml_tensor* bias, int ith, int nth, void*) {
  const int64_t rows = ggml_nrows(x);
  const int64_t each = (rows + nth - 1) / nth;
  for (int64_t r = ith * each; r < std::min(rows, (ith + 1) * each); ++r) {
    gelu_row(reinterpret_cast<float*>(static_cast<char*>(dst->data) + r * dst->nb[1]),
             static_cast<const float*>(bias->data), x->ne[0]);
  }
}

}  // namespace

ggml_tensor* gelu_tanh(ggml_context* ctx, const Device& device, ggml_tensor* x, ggml_tensor* bias) {
  if (device.is_host()) {
    return ggml_map_custom2_inplace(ctx, x, bias, gelu_rows, GGML_N_TASKS_MAX, nullptr);
  }
  return ggml_gelu(ctx, ggml_add(ctx, x, bias));
}

}  // namespace omni
