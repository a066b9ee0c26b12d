// vision/attention.cpp - attention by ggml's flash kernels, in a form that they are fast at.
#include "vision/attention.h"

#include <cmath>

namespace omni {
namespace {

// Heads of other sizes leave the vectorised kernels.
constexpr int64_t kHeadMultiple = 16;

// x [width, n, batch] -> [padded head_dim, n, heads, batch].
ggml_tensor* split_heads(ggml_context* ctx, ggml_tensor* x, int64_t n_heads, int64_t padding) {
  ggml_tensor* heads = ggml_reshape_4d(ctx, x, x->ne[0] / n_heads, n_heads, x->ne[1], x->ne[2]);
  if (padding > 0) heads = ggml_pad(ctx, heads, static_cast<int>(padding), 0, 0, 0);
  return ggml_permute(ctx, heads, 0, 2, 1, 3);
}

ggml_tensor* flash(ggml_context* ctx, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v, float scale) {
  ggml_tensor* out = ggml_flash_attn_ext(ctx, q, k, v, nullptr, scale, 0.0F, 0.0F);
  ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
  return out;
}

}  // namespace

ggml_tensor* attend(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                    int64_t n_heads) {
  const int64_t width = q->ne[0];
  const int64_t head_dim = width / n_heads;
  const int64_t padding = (kHeadMultiple - head_dim % kHeadMultiple) % kHeadMultiple;
  const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim));
  const int64_t batch = k->ne[2];
  ggml_tensor* queries = split_heads(ctx, q, n_heads, padding);
  if (queries->ne[3] != batch) {
    queries = ggml_repeat_4d(ctx, queries, queries->ne[0], queries->ne[1], queries->ne[2], batch);
  }
  ggml_tensor* keys = split_heads(ctx, k, n_heads, padding);
  ggml_tensor* values = split_heads(ctx, v, n_heads, padding);
  ggml_tensor* out = flash(ctx, queries, keys, values, scale);
  if (!ggml_backend_supports_op(device.backend(), out)) {
    // Most accelerators take keys and values only as F16.
    out = flash(ctx, queries, ggml_cast(ctx, keys, GGML_TYPE_F16), ggml_cast(ctx, values, GGML_TYPE_F16),
                scale);
  }
  // [padded head_dim, heads, n, batch]
  const int64_t rows = out->ne[2] * out->ne[3];
  if (padding == 0) return ggml_reshape_2d(ctx, out, width, rows);
  ggml_tensor* kept = ggml_view_4d(ctx, out, head_dim, out->ne[1], out->ne[2], out->ne[3], out->nb[1],
                                   out->nb[2], out->nb[3], 0);
  return ggml_cont_2d(ctx, kept, width, rows);
}

}  // namespace omni
