// kernels/prepare.cpp - rows shared out to threads, and the same as graphs.
#include "kernels/prepare.h"

#include "omni/error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/packed_plan.h"
#include "kernels/prepare_row.h"

#define OMNI_KERNEL_FILE "kernels/prepare.inc"
#include "kernels/for_each_target.h"

namespace omni {
namespace {

using prepare::Kind;

#ifdef OMNI_HAS_TARGETS

struct Plan {
  float number;  // epsilon or slope
  uint8_t kind;
  uint8_t before;
  uint8_t after;
  uint8_t has_past : 1, has_factors : 1;
};

// src: x, the past rows if there are any, the two factors if there are any. Threads share out the rows of
// every sequence; the last thread does those that will be the past, and copies the past itself.
void prepare_share(ggml_tensor* dst, int ith, int nth, void* packed_plan) {
  const auto plan = from_pointer<Plan>(packed_plan);
  const ggml_tensor* x = dst->src[0];
  const ggml_tensor* past = plan.has_past != 0 ? dst->src[1] : nullptr;
  const int first_factor = plan.has_past != 0 ? 2 : 1;
  const auto factor = [&](int i) {
    return plan.has_factors != 0 ? static_cast<const float*>(dst->src[first_factor + i]->data) : nullptr;
  };
  const int64_t n = x->ne[1];
  const int64_t before = plan.before;
  const auto bound = [&](int i) { return i == nth ? n : std::clamp<int64_t>(n - before, 0, n) * i / nth; };
  const auto run = OMNI_BEST_TARGET(prepare_row);
  for (int64_t b = 0; b < x->ne[2]; ++b) {
    char* to = static_cast<char*>(dst->data) + static_cast<size_t>(b) * dst->nb[2];
    const char* from = static_cast<const char*>(x->data) + static_cast<size_t>(b) * x->nb[2];
    for (int64_t i = bound(ith); i < bound(ith + 1); ++i) {
      run({reinterpret_cast<const float*>(from + static_cast<size_t>(i) * x->nb[1]), factor(0), factor(1),
           to + static_cast<size_t>(before + i) * dst->nb[1], x->ne[0]},
          static_cast<Kind>(plan.kind), plan.number, dst->type == GGML_TYPE_BF16);
    }
    if (ith + 1 != nth) continue;
    const size_t size = static_cast<size_t>(before) * dst->nb[1];
    if (past == nullptr) {
      std::memset(to, 0, size);
    } else {
      char* kept = static_cast<char*>(past->data) + static_cast<size_t>(b) * past->nb[2];
      std::memcpy(to, kept, size);
      std::memcpy(kept, to + static_cast<size_t>(n) * dst->nb[1], size);
    }
    std::memset(to + static_cast<size_t>(before + n) * dst->nb[1], 0,
                static_cast<size_t>(plan.after) * dst->nb[1]);
  }
}

#endif  // OMNI_HAS_TARGETS

}  // namespace

Snake load_snake(Weights& weights, const std::string& name, int64_t channels) {
  Snake snake;
  snake.alpha = weights.f32(name + ".alpha", {channels});
  const GgufTensor& source = weights.file().tensor(name + ".alpha", {channels});
  snake.inverse = weights.computed(name + ".inverse", {channels}, [&source, channels](float* out) {
    read_floats(source, out);
    for (int64_t i = 0; i < channels; ++i) out[i] = 1.0F / (out[i] + 1e-9F);
  });
  return snake;
}

bool Prepare::has_kernels(const Device& device) {
#ifdef OMNI_HAS_TARGETS
  return device.is_host();
#else
  (void)device;
  return false;
#endif
}

ggml_tensor* Prepare::fused(int kind, float number, ggml_tensor* x, ggml_tensor* a, ggml_tensor* b,
                            const Edges& edges) const {
#ifdef OMNI_HAS_TARGETS
  ggml_context* ctx = g_.ctx();
  if (x->nb[0] != sizeof(float)) x = ggml_cont(ctx, x);
  require(edges.before < 256 && edges.after < 256 && x->type == GGML_TYPE_F32 && x->ne[3] == 1 &&
              (edges.past == nullptr || (edges.past->type == type_ && edges.past->ne[0] == x->ne[0] &&
                                         edges.past->ne[1] == edges.before && edges.past->ne[2] == x->ne[2] &&
                                         edges.past->nb[1] == ggml_row_size(type_, x->ne[0]))),
          ErrorCode::internal, "a signal of ", x->ne[0], " channels can't get the rows before it");
  Plan plan{number,
            static_cast<uint8_t>(kind),
            static_cast<uint8_t>(edges.before),
            static_cast<uint8_t>(edges.after),
            0,
            0};
  std::array<ggml_tensor*, 4> sources = {x};
  int count = 1;
  if (edges.past != nullptr && edges.before > 0) {
    plan.has_past = 1;
    sources[static_cast<size_t>(count++)] = edges.past;
  }
  if (a != nullptr) {
    plan.has_factors = 1;
    sources[static_cast<size_t>(count++)] = a;
    sources[static_cast<size_t>(count++)] = b;
  }
  return ggml_custom_4d(ctx, type_, x->ne[0], edges.before + x->ne[1] + edges.after, x->ne[2], 1,
                        sources.data(), count, prepare_share, GGML_N_TASKS_MAX, as_pointer(plan));
#else
  (void)kind, (void)number, (void)x, (void)a, (void)b, (void)edges;
  fail(ErrorCode::internal, "there are no kernels for this device");
#endif
}

ggml_tensor* Prepare::joined(ggml_tensor* x, const Edges& edges) const {
  ggml_context* ctx = g_.ctx();
  if (edges.past != nullptr && edges.before > 0) {
    ggml_tensor* all = ggml_concat(ctx, edges.past, x, 1);
    ggml_tensor* tail = ggml_view_3d(ctx, all, all->ne[0], edges.before, all->ne[2], all->nb[1], all->nb[2],
                                     static_cast<size_t>(x->ne[1]) * all->nb[1]);
    g_.effect(ggml_cpy(ctx, tail, edges.past));
    x = all;
  } else if (edges.before > 0) {
    x = ggml_pad_ext(ctx, x, 0, 0, static_cast<int>(edges.before), 0, 0, 0, 0, 0);
  }
  if (edges.after > 0) x = ggml_pad_ext(ctx, x, 0, 0, 0, static_cast<int>(edges.after), 0, 0, 0, 0);
  return x;
}

ggml_tensor* Prepare::norm(ggml_tensor* x, ggml_tensor* w, ggml_tensor* b, float eps,
                           const Edges& edges) const {
  if (fused_) return fused(static_cast<int>(Kind::norm), eps, x, w, b, edges);
  ggml_context* ctx = g_.ctx();
  return joined(ggml_add(ctx, ggml_mul(ctx, ggml_norm(ctx, x, eps), w), b), edges);
}

ggml_tensor* Prepare::norm_mish(ggml_tensor* x, ggml_tensor* w, ggml_tensor* b, float eps,
                                const Edges& edges) const {
  if (fused_) return fused(static_cast<int>(Kind::norm_mish), eps, x, w, b, edges);
  ggml_context* ctx = g_.ctx();
  x = ggml_add(ctx, ggml_mul(ctx, ggml_norm(ctx, x, eps), w), b);
  return joined(ggml_mul(ctx, x, ggml_tanh(ctx, ggml_softplus(ctx, x))), edges);
}

ggml_tensor* Prepare::snake(ggml_tensor* x, const Snake& snake, const Edges& edges) const {
  if (fused_) return fused(static_cast<int>(Kind::snake), 0, x, snake.alpha, snake.inverse, edges);
  ggml_context* ctx = g_.ctx();
  ggml_tensor* s = ggml_sqr(ctx, ggml_sin(ctx, ggml_mul(ctx, x, snake.alpha)));
  return joined(ggml_add(ctx, x, ggml_mul(ctx, s, snake.inverse)), edges);
}

ggml_tensor* Prepare::leaky(ggml_tensor* x, float slope, const Edges& edges) const {
  if (fused_) return fused(static_cast<int>(Kind::leaky), slope, x, nullptr, nullptr, edges);
  return joined(ggml_leaky_relu(g_.ctx(), x, slope, false), edges);
}

ggml_tensor* Prepare::copy(ggml_tensor* x, const Edges& edges) const {
  if (edges.before + edges.after == 0) return x;
  if (fused_) return fused(static_cast<int>(Kind::copy), 0, x, nullptr, nullptr, edges);
  return joined(x, edges);
}

}  // namespace omni
