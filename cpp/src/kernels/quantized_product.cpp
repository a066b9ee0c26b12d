// kernels/quantized_product.cpp - choosing the kernels for quantised weights, and their operators.
#include "kernels/quantized_product.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "ggml-backend.h"

#include "kernels/quantized_block.h"
#include "kernels/quantized_targets.h"

namespace omni {
namespace {

#ifdef OMNI_HAS_QUANTIZED_KERNELS

std::optional<quantized::Format> format_of(ggml_type type) {
  switch (type) {
    case GGML_TYPE_Q4_K:
      return quantized::Format::q4_k;
    case GGML_TYPE_Q5_K:
      return quantized::Format::q5_k;
    case GGML_TYPE_Q6_K:
      return quantized::Format::q6_k;
    default:
      return std::nullopt;
  }
}

constexpr int64_t kFewColumns = 2;

// Calls visit(values, column, block) for a thread's share of the blocks of 256 in x [in, n, ...] F32.
template <typename Visit>
void for_each_block(const ggml_tensor* x, int ith, int nth, Visit&& visit) {
  const int64_t n = ggml_nrows(x);
  const int64_t blocks = x->ne[0] / quantized::kBlock;
  for (int64_t c = n * ith / nth; c < n * (ith + 1) / nth; ++c) {
    const int64_t i1 = c % x->ne[1];
    const int64_t i2 = c / x->ne[1] % x->ne[2];
    const int64_t i3 = c / (x->ne[1] * x->ne[2]);
    const char* column = static_cast<const char*>(x->data) + static_cast<size_t>(i1) * x->nb[1] +
                         static_cast<size_t>(i2) * x->nb[2] + static_cast<size_t>(i3) * x->nb[3];
    for (int64_t b = 0; b < blocks; ++b) {
      visit(reinterpret_cast<const float*>(column) + b * quantized::kBlock, c, b);
    }
  }
}

// dst: n * in / 256 of quantized::Activations, blocks of one number side by side.
template <quantized::Sign kSign>
void quantize_many(ggml_tensor* dst, int ith, int nth, void*) {
  const int64_t n = ggml_nrows(dst->src[0]);
  auto* to = static_cast<quantized::Activations*>(dst->data);
  const auto run = OMNI_QUANTIZED_TARGET(quantize_activations<kSign>);
  for_each_block(dst->src[0], ith, nth,
                 [&](const float* x, int64_t column, int64_t block) { run(x, to[block * n + column]); });
}

// dst: n * in / 256 of quantized::Column, blocks of one column side by side.
void quantize_few(ggml_tensor* dst, int ith, int nth, void*) {
  const int64_t blocks = dst->src[0]->ne[0] / quantized::kBlock;
  auto* to = static_cast<quantized::Column*>(dst->data);
  for_each_block(dst->src[0], ith, nth, [&](const float* x, int64_t column, int64_t block) {
    lanes16::quantize_column(x, to[column * blocks + block]);
  });
}

// src: weights [in, out], activations of quantize_many() or quantize_few(). dst [out, n, ...].
template <typename Product>
Product share_of(const ggml_tensor* dst, int ith, int nth) {
  const ggml_tensor* w = dst->src[0];
  Product p{};
  p.weights = {*format_of(w->type), static_cast<const uint8_t*>(w->data), w->nb[1], w->ne[0], w->ne[1]};
  p.x = static_cast<decltype(p.x)>(dst->src[1]->data);
  p.n = ggml_nrows(dst);
  p.out = static_cast<float*>(dst->data);
  // Whole panels, so that threads don't write to one another's cache lines.
  constexpr int64_t kPanel = 16;
  const int64_t panels = (w->ne[1] + kPanel - 1) / kPanel;
  p.first = std::min(panels * ith / nth * kPanel, w->ne[1]);
  p.last = std::min(panels * (ith + 1) / nth * kPanel, w->ne[1]);
  return p;
}

void multiply_many(ggml_tensor* dst, int ith, int nth, void*) {
  OMNI_QUANTIZED_TARGET(multiply)(share_of<quantized::Product>(dst, ith, nth));
}

void multiply_few(ggml_tensor* dst, int ith, int nth, void*) {
  lanes16::multiply_few(share_of<quantized::FewProduct>(dst, ith, nth));
}

// Whether ggml is the slower one.
bool multiplies(ggml_type type, int64_t n) {
  const auto format = format_of(type);
  if (!format) return false;
  return n > kFewColumns ? has_avx2() : has_vnni() && *format != quantized::Format::q5_k;
}

bool in_host_memory(const ggml_tensor* weights) {
  if (weights->buffer == nullptr || !ggml_backend_buffer_is_host(weights->buffer)) return false;
  ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(weights->buffer));
  // Mapped memory has no device.
  return device == nullptr || ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

#endif  // OMNI_HAS_QUANTIZED_KERNELS

}  // namespace

bool keeps_quantized(const Device& device, ggml_type type) {
#ifdef OMNI_HAS_QUANTIZED_KERNELS
  constexpr int64_t kMany = 512;
  return device.is_host() && multiplies(type, kMany);
#else
  (void)device;
  (void)type;
  return false;
#endif
}

ggml_tensor* quantized_product(ggml_context* ctx, ggml_tensor* weights, ggml_tensor* x) {
#ifdef OMNI_HAS_QUANTIZED_KERNELS
  const int64_t n = ggml_nrows(x);
  if (x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float) || weights->ne[2] * weights->ne[3] != 1 ||
      !multiplies(weights->type, n) || !in_host_memory(weights)) {
    return nullptr;
  }
  const bool few = n <= kFewColumns;
  const bool plain = quantized::sign_for(*format_of(weights->type)) == quantized::Sign::with;
  const size_t size = few ? sizeof(quantized::Column) : sizeof(quantized::Activations);
  ggml_tensor* sources[] = {weights, nullptr};
  sources[1] = ggml_custom_4d(ctx, GGML_TYPE_I8,
                              n * x->ne[0] / quantized::kBlock * static_cast<int64_t>(size), 1, 1, 1, &x, 1,
                              few     ? quantize_few
                              : plain ? quantize_many<quantized::Sign::with>
                                      : quantize_many<quantized::Sign::without>,
                              GGML_N_TASKS_MAX, nullptr);
  return ggml_custom_4d(ctx, GGML_TYPE_F32, weights->ne[1], x->ne[1], x->ne[2], x->ne[3], sources, 2,
                        few ? multiply_few : multiply_many, GGML_N_TASKS_MAX, nullptr);
#else
  (void)ctx;
  (void)weights;
  (void)x;
  return nullptr;
#endif
}

}  // namespace omni
