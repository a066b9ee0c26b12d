// kernels/attention.cpp - attention on the host processor, and by ggml's flash kernels elsewhere.
//
// One head at a time: its keys are turned so that neighbours in memory are neighbours among the keys, its
// values are copied to rows of whole vectors. Then 16 queries at a time make a block of scores, softmax, and
// sums of values, everything in the second-level cache. Scores and sums are small matrix products in
// registers.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>

#include "kernels/attention_block.h"

#define OMNI_KERNEL_FILE "kernels/attention.inc"
#include "kernels/for_each_target.h"

namespace omni {
namespace {

#ifdef OMNI_HAS_TARGETS

// src: q [dim, heads, n, 1 or batch], k and v [dim, heads, m, batch]. dst [width, n * batch + scratch rows].
// Heads are shared out to the threads, whole if that keeps all of them busy, else with their queries in
// parts.
void attend_heads(ggml_tensor* dst, int ith, int nth, void*) {
  const ggml_tensor* q = dst->src[0];
  const ggml_tensor* k = dst->src[1];
  const ggml_tensor* v = dst->src[2];
  const int64_t dim = q->ne[0];
  const int64_t n_heads = q->ne[1];
  const int64_t n = q->ne[2];
  const int64_t batch = k->ne[3];
  const int64_t width = dim * n_heads;
  const auto floats = [](const ggml_tensor* t) { return static_cast<float*>(t->data); };

  attention::Head h{};
  h.width = width;
  h.dim = dim;
  h.n_keys = k->ne[2];
  h.scale = 1.0F / std::sqrt(static_cast<float>(dim));
  const attention::Scratch s(dim, h.n_keys);
  float* scratch = floats(dst) + width * n * batch + s.size * ith;

  constexpr int64_t kMostParts = 4;
  int64_t parts = 1;
  while (n_heads * batch * parts % nth != 0 && parts < kMostParts) ++parts;
  const int64_t part_size = attention::round_up((n + parts - 1) / parts, attention::kBlock);
  const int64_t units = n_heads * batch * parts;
  const auto run = OMNI_BEST_TARGET(attend_queries);
  int64_t packed = -1;
  for (int64_t unit = units * ith / nth; unit < units * (ith + 1) / nth; ++unit) {
    const int64_t head = unit / parts;
    const int64_t b = head / n_heads;
    const int64_t offset = head % n_heads * dim;
    h.q = floats(q) + (q->ne[3] == 1 ? 0 : b * n * width) + offset;
    h.k = floats(k) + b * h.n_keys * width + offset;
    h.v = floats(v) + b * h.n_keys * width + offset;
    h.out = floats(dst) + b * n * width + offset;
    h.first_query = std::min(unit % parts * part_size, n);
    h.last_query = std::min(h.first_query + part_size, n);
    if (packed != head) attention::pack(h, s, scratch);
    packed = head;
    run(h, s, scratch);
  }
}

ggml_tensor* attend_on_host(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k,
                            ggml_tensor* v) {
  const int64_t width = q->ne[0] * q->ne[1];
  const int64_t rows = q->ne[2] * k->ne[3];
  // The threads' scratch lies behind the result, so that the graph's allocator provides it.
  const int64_t scratch = attention::Scratch(q->ne[0], k->ne[2]).size * device.n_threads();
  ggml_tensor* sources[] = {q, k, v};
  ggml_tensor* out =
      ggml_custom_4d(ctx, GGML_TYPE_F32, width, rows + attention::round_up(scratch, width) / width, 1, 1,
                     sources, 3, attend_heads, GGML_N_TASKS_MAX, nullptr);
  return ggml_view_2d(ctx, out, width, rows, out->nb[1], 0);
}

#endif  // OMNI_HAS_TARGETS

ggml_tensor* flash(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(q->ne[0]));
  ggml_tensor* out = ggml_flash_attn_ext(ctx, q, k, v, nullptr, scale, 0.0F, 0.0F);
  ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
  return out;
}

// The same sources as attend_heads().
ggml_tensor* attend_by_flash(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k,
                             ggml_tensor* v) {
  const int64_t batch = k->ne[3];
  if (q->ne[3] != batch) q = ggml_repeat_4d(ctx, q, q->ne[0], q->ne[1], q->ne[2], batch);
  const auto by_head = [&](ggml_tensor* x) { return ggml_permute(ctx, x, 0, 2, 1, 3); };
  ggml_tensor* out = flash(ctx, by_head(q), by_head(k), by_head(v));
  if (!ggml_backend_supports_op(device.backend(), out)) {
    // Most accelerators take keys and values only as F16.
    const auto half = [&](ggml_tensor* x) { return by_head(ggml_cast(ctx, x, GGML_TYPE_F16)); };
    out = flash(ctx, by_head(q), half(k), half(v));
  }
  return ggml_reshape_2d(ctx, out, q->ne[0] * q->ne[1], q->ne[2] * batch);
}

}  // namespace

ggml_tensor* attend(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                    int64_t n_heads) {
  const auto split = [&](ggml_tensor* x) {
    return ggml_reshape_4d(ctx, x, x->ne[0] / n_heads, n_heads, x->ne[1], x->ne[2]);
  };
#ifdef OMNI_HAS_TARGETS
  if (device.is_host()) return attend_on_host(ctx, device, split(q), split(k), split(v));
#endif
  return attend_by_flash(ctx, device, split(q), split(k), split(v));
}

}  // namespace omni
