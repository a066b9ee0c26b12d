// kernels/activations.cpp - vectorised nonlinearities, and the same as graphs.
#include "kernels/activations.h"

#include <algorithm>
#include <cstdint>

#include "base/vectorize.h"
#include "kernels/exponential.h"

namespace omni {
namespace {

// Nearest integer of |x| < 2^22, by way of a number so large that its last bit counts ones.
inline float nearest(float x) {
  constexpr float kShift = 12582912.0F;  // 1.5 * 2^23
  return (x + kShift) - kShift;
}

// sin^2 x, to 1e-7 for |x| < 10^4: the period is pi, taken off in three parts.
inline float sin_squared(float x) {
  const float n = nearest(x * 0.318309886F);
  float r = x - n * 3.140625F;
  r = r - n * 9.67025757e-4F;
  r = r - n * 6.27832832e-7F;
  const float s = r * r;
  float p = -2.50521084e-8F;
  p = p * s + 2.75573192e-6F;
  p = p * s - 1.98412698e-4F;
  p = p * s + 8.33333333e-3F;
  p = p * s - 1.66666667e-1F;
  const float sine = r + r * s * p;
  return sine * sine;
}

OMNI_WIDE_VECTORS void snake_row(const float* x, const float* alpha, const float* inverse, float* y,
                                 int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] + sin_squared(alpha[i] * x[i]) * inverse[i];
}

OMNI_WIDE_VECTORS void mish_row(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    // tanh(ln(1 + e)) = (e^2 + 2e) / (e^2 + 2e + 2); from 20 on it is 1.
    float clamped = x[i] > 20.0F ? 20.0F : x[i];
    clamped = clamped < -87.0F ? -87.0F : clamped;
    const float e = exponential(clamped);
    const float a = e * (e + 2.0F);
    y[i] = x[i] * (a / (a + 2.0F));
  }
}

// Calls row(first element, count) for this thread's share of a contiguous tensor.
template <typename Row>
void share(const ggml_tensor* t, int ith, int nth, Row&& row) {
  const int64_t n = ggml_nelements(t);
  const int64_t block = (n / nth + 63) / 64 * 64;
  const int64_t first = std::min(n, block * ith);
  const int64_t last = ith + 1 == nth ? n : std::min(n, first + block);
  if (last > first) row(first, last - first);
}

float* data_of(const ggml_tensor* t) {
  return static_cast<float*>(t->data);
}

void run_snake(ggml_tensor* y, const ggml_tensor* x, const ggml_tensor* alpha, const ggml_tensor* inverse,
               int ith, int nth, void* /*unused*/) {
  const int64_t n = x->ne[0];
  const int64_t rows = ggml_nrows(x);
  for (int64_t r = rows * ith / nth; r < rows * (ith + 1) / nth; ++r) {
    snake_row(data_of(x) + r * n, data_of(alpha), data_of(inverse), data_of(y) + r * n, n);
  }
}

void run_mish(ggml_tensor* y, const ggml_tensor* x, int ith, int nth, void* /*unused*/) {
  share(x, ith, nth, [&](int64_t first, int64_t n) { mish_row(data_of(x) + first, data_of(y) + first, n); });
}

ggml_tensor* packed(ggml_context* ctx, ggml_tensor* x) {
  return ggml_is_contiguous(x) ? x : ggml_cont(ctx, x);
}

}  // namespace

Snake load_snake(Weights& weights, const std::string& name, int64_t channels) {
  Snake snake;
  snake.alpha = weights.f32(name + ".alpha", {channels});
  const GgufTensor& source = weights.file().tensor(name + ".alpha", {channels});
  snake.inverse = weights.computed(name + ".inverse", {channels}, [&source, channels](float* out) {
    std::vector<float> unused;
    convert_elements(source.type, source.data, GGML_TYPE_F32, out, channels, unused);
    for (int64_t i = 0; i < channels; ++i) out[i] = 1.0F / (out[i] + 1e-9F);
  });
  return snake;
}

ggml_tensor* Activations::snake(ggml_context* ctx, const Snake& snake, ggml_tensor* x) const {
  if (fused_) {
    return ggml_map_custom3(ctx, packed(ctx, x), snake.alpha, snake.inverse, run_snake, GGML_N_TASKS_MAX,
                            nullptr);
  }
  ggml_tensor* s = ggml_sqr(ctx, ggml_sin(ctx, ggml_mul(ctx, x, snake.alpha)));
  return ggml_add(ctx, x, ggml_mul(ctx, s, snake.inverse));
}

ggml_tensor* Activations::mish(ggml_context* ctx, ggml_tensor* x) const {
  if (fused_) return ggml_map_custom1(ctx, packed(ctx, x), run_mish, GGML_N_TASKS_MAX, nullptr);
  return ggml_mul(ctx, x, ggml_tanh(ctx, ggml_softplus(ctx, x)));
}

}  // namespace omni
