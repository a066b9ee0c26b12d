// vision/resampler.cpp - the resampler's weights and graph.
#include "vision/resampler.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"

namespace omni {
namespace {

constexpr float kNormEps = 1e-6F;  // the file has no key for it

// Sines, then cosines of 0, 1, ... `count` - 1: [half, count].
std::vector<float> waves(int64_t half, int64_t count) {
  const int64_t quarter = half / 2;
  std::vector<float> out(static_cast<size_t>(half * count));
  for (int64_t i = 0; i < quarter; ++i) {
    const float exponent = static_cast<float>(i) / static_cast<float>(quarter);
    const float omega = 1.0F / std::pow(10000.0F, exponent);
    for (int64_t at = 0; at < count; ++at) {
      const float angle = static_cast<float>(at) * omega;
      out[static_cast<size_t>(at * half + i)] = std::sin(angle);
      out[static_cast<size_t>(at * half + quarter + i)] = std::cos(angle);
    }
  }
  return out;
}

}  // namespace

void sincos_positions(int64_t width, int64_t columns, int64_t rows, std::vector<float>& out) {
  const int64_t half = width / 2;
  const std::vector<float> table = waves(half, std::max(columns, rows));
  out.resize(static_cast<size_t>(width * columns * rows));
  float* to = out.data();
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      to = std::copy_n(table.data() + column * half, half, to);
      to = std::copy_n(table.data() + row * half, half, to);
    }
  }
}

Resampler::Resampler(const VisionConfig& config, Weights& weights, const LinearPolicy& policy)
    : config_(config), device_(weights.device()) {
  const int64_t width = config_.embed_width;
  const auto square = [&](const char* name, Bias bias) {
    return load_linear(weights, name, width, width, bias, policy);
  };
  const auto norm = [&](const char* name) { return load_layer_norm(weights, name, width, kNormEps); };
  query_ = weights.f32("resampler.query", {width, config_.n_queries});
  kv_ = load_linear(weights, "resampler.kv", config_.width, width, Bias::none, policy);
  // Used once, so not worth another form.
  q_ = load_linear(weights, "resampler.attn.q", width, width, Bias::required);
  k_ = square("resampler.attn.k", Bias::required);
  v_ = square("resampler.attn.v", Bias::required);
  out_ = square("resampler.attn.out", Bias::required);
  proj_ = square("resampler.proj", Bias::none);  // stored transposed, so this is x @ proj
  norm_q_ = norm("resampler.ln_q");
  norm_kv_ = norm("resampler.ln_kv");
  norm_post_ = norm("resampler.ln_post");
}

void Resampler::list_matrices(std::vector<const ggml_tensor*>& out) const {
  for (const Linear* m : {&kv_, &k_, &v_, &out_, &proj_}) out.push_back(m->weight);
}

ggml_tensor* Resampler::build_queries(ggml_context* ctx) const {
  return linear(ctx, q_, layer_norm(ctx, norm_q_, query_));
}

ggml_tensor* Resampler::build_attention(ggml_context* ctx, ggml_tensor* x, ggml_tensor* queries,
                                        ggml_tensor* positions) const {
  const int64_t width = config_.embed_width;
  const int64_t n = positions->ne[1];
  const int64_t batch = x->ne[1] / n;
  ggml_tensor* kv = layer_norm(ctx, norm_kv_, linear(ctx, kv_, x));
  ggml_tensor* placed = ggml_add(ctx, ggml_reshape_3d(ctx, kv, width, n, batch), positions);
  ggml_tensor* k = linear(ctx, k_, ggml_reshape_2d(ctx, placed, width, n * batch));
  ggml_tensor* v = linear(ctx, v_, kv);  // values know no position
  ggml_tensor* a = attend(ctx, device_, queries, ggml_reshape_3d(ctx, k, width, n, batch),
                          ggml_reshape_3d(ctx, v, width, n, batch), config_.embed_heads);
  return linear(ctx, out_, a);
}

ggml_tensor* Resampler::build_output(ggml_context* ctx, ggml_tensor* found) const {
  return linear(ctx, proj_, layer_norm(ctx, norm_post_, found));
}

}  // namespace omni
