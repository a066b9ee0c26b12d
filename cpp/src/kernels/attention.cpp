// kernels/attention.cpp - attention on the host processor, and by ggml's flash kernels elsewhere.
//
// One head at a time: its keys are turned so that neighbours in memory are neighbours among the keys, its
// values are copied to rows of whole vectors. Then 16 queries at a time make a block of scores, softmax, and
// sums of values, everything in the second-level cache. Scores and sums are small matrix products in
// registers.
#include "kernels/attention.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention_block.h"

#define OMNI_KERNEL_FILE "kernels/attention.inc"
#include "kernels/for_each_target.h"

namespace omni {
namespace {

#ifdef OMNI_HAS_TARGETS

// src: q [dim, heads, n, 1 or batch], k and v [dim, heads, m, batch], and where not all keys are seen their
// number for each query [n]. dst [width, n * batch + scratch rows]. Heads are shared out to the threads,
// whole if that keeps all of them busy, else with their queries in parts.
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
  const auto bytes = [](const ggml_tensor* t, int64_t row, int64_t column) {
    return static_cast<const char*>(t->data) + static_cast<size_t>(row) * t->nb[2] +
           static_cast<size_t>(column) * t->nb[0];
  };

  attention::Head h{};
  h.width = width;
  h.dim = dim;
  h.half = k->type == GGML_TYPE_F16;
  h.n_keys = k->ne[2];
  if (dst->src[3] != nullptr) {
    h.seen = static_cast<const int32_t*>(dst->src[3]->data);
    h.n_keys = *std::max_element(h.seen, h.seen + n);  // what nobody sees isn't packed
  }
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
    h.k = bytes(k, b * k->ne[2], offset);
    h.v = bytes(v, b * k->ne[2], offset);
    h.out = floats(dst) + b * n * width + offset;
    h.first_query = std::min(unit % parts * part_size, n);
    h.last_query = std::min(h.first_query + part_size, n);
    if (packed != head) attention::pack(h, s, scratch);
    packed = head;
    run(h, s, scratch);
  }
}

ggml_tensor* attend_on_host(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k,
                            ggml_tensor* v, const Visible& visible) {
  const int64_t width = q->ne[0] * q->ne[1];
  const int64_t rows = q->ne[2] * k->ne[3];
  // The threads' scratch lies behind the result, so that the graph's allocator provides it.
  const int64_t scratch = attention::Scratch(q->ne[0], k->ne[2]).size * device.n_threads();
  ggml_tensor* sources[] = {q, k, v, visible.seen};
  ggml_tensor* out =
      ggml_custom_4d(ctx, GGML_TYPE_F32, width, rows + attention::round_up(scratch, width) / width, 1, 1,
                     sources, visible.seen == nullptr ? 3 : 4, attend_heads, GGML_N_TASKS_MAX, nullptr);
  return ggml_view_2d(ctx, out, width, rows, out->nb[1], 0);
}

#endif  // OMNI_HAS_TARGETS

ggml_tensor* flash(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v, ggml_tensor* mask) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(q->ne[0]));
  ggml_tensor* out = ggml_flash_attn_ext(ctx, q, k, v, mask, scale, 0.0F, 0.0F);
  ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
  return out;
}

// The same sources as attend_heads().
ggml_tensor* attend_by_flash(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k,
                             ggml_tensor* v, const Visible& visible) {
  const int64_t batch = k->ne[3];
  if (q->ne[3] != batch) q = ggml_repeat_4d(ctx, q, q->ne[0], q->ne[1], q->ne[2], batch);
  const auto by_head = [&](ggml_tensor* x) { return ggml_permute(ctx, x, 0, 2, 1, 3); };
  ggml_tensor* out = flash(ctx, by_head(q), by_head(k), by_head(v), visible.mask);
  if (k->type == GGML_TYPE_F32 && !ggml_backend_supports_op(device.backend(), out)) {
    // Most accelerators take keys and values only as F16.
    const auto half = [&](ggml_tensor* x) { return by_head(ggml_cast(ctx, x, GGML_TYPE_F16)); };
    out = flash(ctx, by_head(q), half(k), half(v), visible.mask);
  }
  return ggml_reshape_2d(ctx, out, q->ne[0] * q->ne[1], q->ne[2] * batch);
}

bool has_own_kernel(const Device& device) {
#ifdef OMNI_HAS_TARGETS
  return device.is_host();
#else
  (void)device;
  return false;
#endif
}

}  // namespace

Visible Visible::input(const Graph& g, const Device& device, int64_t m, int64_t n) {
  Visible visible;
  if (has_own_kernel(device)) {
    visible.seen = g.input(GGML_TYPE_I32, {n}, "seen");
  } else {
    visible.mask = g.input(GGML_TYPE_F16, {m, n}, "mask");
  }
  return visible;
}

void Visible::set(const Executor& executor, std::span<const int32_t> counts,
                  std::vector<ggml_fp16_t>& scratch) const {
  if (seen != nullptr) {
    executor.set<int32_t>(seen, counts);
    return;
  }
  const ggml_fp16_t zero = ggml_fp32_to_fp16(0.0F);
  const ggml_fp16_t hide = ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity());
  const auto m = static_cast<size_t>(mask->ne[0]);
  scratch.resize(m * counts.size());
  for (size_t i = 0; i < counts.size(); ++i) {
    ggml_fp16_t* row = scratch.data() + i * m;
    std::fill(row, row + counts[i], zero);
    std::fill(row + counts[i], row + m, hide);
  }
  executor.set<ggml_fp16_t>(mask, scratch);
}

ggml_tensor* attend(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                    int64_t n_heads, const Visible& visible) {
  const bool limited = visible.seen != nullptr || visible.mask != nullptr;
  require(k->type == v->type && (!limited || k->ne[2] == 1), ErrorCode::internal,
          "attention takes keys and values of one type, and limits for one batch only");
  const auto split = [&](ggml_tensor* x) {
    return ggml_reshape_4d(ctx, x, x->ne[0] / n_heads, n_heads, x->ne[1], x->ne[2]);
  };
#ifdef OMNI_HAS_TARGETS
  if (has_own_kernel(device)) return attend_on_host(ctx, device, split(q), split(k), split(v), visible);
#endif
  return attend_by_flash(ctx, device, split(q), split(k), split(v), visible);
}

}  // namespace omni
