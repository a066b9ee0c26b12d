// kernels/panels.cpp - sharing panels, rows and heads out to threads.
#include "kernels/panels.h"

#include "omni/error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/packed_plan.h"
#include "kernels/panels_block.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define OMNI_WITH_BF16_DOT 1
#endif
#define OMNI_KERNEL_FILE "kernels/panels.inc"
#include "kernels/for_each_target.h"

namespace omni::panels {

int64_t padded_outputs(int64_t out) {
  return round_up(out, kGroup);
}

int64_t CacheShape::key_columns() const {
  return round_up(rows, kGroup);
}

int64_t CacheShape::value_columns() const {
  return (n_heads - 1) * dim + round_up(dim, kGroup);
}

void pack(const float* rows, int64_t in, int64_t out, float* to) {
  const int64_t padded = padded_outputs(out);
  for (int64_t first = 0; first < padded; first += kColumns) {
    const int64_t columns = std::min(kColumns, padded - first);
    for (int64_t i = 0; i < in; i += 2) {
      for (int64_t c = 0; c < columns; ++c) {
        const bool real = first + c < out;
        *to++ = real ? rows[(first + c) * in + i] : 0.0F;
        *to++ = real ? rows[(first + c) * in + i + 1] : 0.0F;
      }
    }
  }
}

void pack_keys(const CacheShape& shape, std::span<const float> rows, std::span<uint32_t> words) {
  const auto width = static_cast<size_t>(shape.dim * shape.n_heads);
  const auto columns = static_cast<size_t>(shape.key_columns());
  for (size_t i = 0; i < rows.size(); i += 2) {
    const auto high = static_cast<uint32_t>(to_bf16(rows[i + 1])) << 16;
    words[i % width / 2 * columns + i / width] = to_bf16(rows[i]) | high;
  }
}

void pack_values(const CacheShape& shape, std::span<const float> rows, std::span<uint32_t> words) {
  const auto width = static_cast<size_t>(shape.dim * shape.n_heads);
  const auto columns = static_cast<size_t>(shape.value_columns());
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t row = i / width;
    words[row / 2 * columns + i % width] |= static_cast<uint32_t>(to_bf16(rows[i])) << (row % 2 * 16);
  }
}

#ifdef OMNI_HAS_TARGETS
namespace {

struct Plan {
  uint8_t kernel, stride, dilation;
  uint8_t has_bias : 1, has_gate : 1, has_residual : 1, gelu : 1;
};

template <typename T>
T* data_of(const ggml_tensor* t) {
  return static_cast<T*>(t->data);
}

// src: weight, x, then what the plan says: bias, gate, residual. Threads share out panels, and rows where
// that is not even.
void multiply_share(ggml_tensor* dst, int ith, int nth, void* packed_plan) {
  const auto plan = from_pointer<Plan>(packed_plan);
  const ggml_tensor* weight = dst->src[0];
  const ggml_tensor* x = dst->src[1];
  int next = 2;
  const auto values = [&](bool wanted) { return wanted ? data_of<const float>(dst->src[next++]) : nullptr; };
  const float* bias = values(plan.has_bias);
  const float* gate = values(plan.has_gate);
  const float* residual = values(plan.has_residual);

  const int64_t in = x->ne[0];
  const int64_t out = dst->ne[0];
  const int64_t n = dst->ne[1];
  const int64_t rows = n * dst->ne[2];
  const int64_t padded = padded_outputs(out);
  const int64_t n_panels = (padded + kColumns - 1) / kColumns;
  int64_t parts = 1;
  while (n_panels * parts % nth != 0) ++parts;
  const int64_t part_size = round_up((rows + parts - 1) / parts, kRows);

  Product p{};
  p.runs = plan.kernel;
  p.run_stride = plan.dilation * in;
  p.depth = in / 2;
  p.out_stride = kColumns;
  std::array<float, kRows * kColumns> tile;
  p.out = tile.data();
  const auto multiply_tile = OMNI_BEST_BF16_TARGET(multiply_panel);
  const auto finish = OMNI_BEST_BF16_TARGET(finish_row);
  const int64_t units = n_panels * parts;
  for (int64_t unit = units * ith / nth; unit < units * (ith + 1) / nth; ++unit) {
    const int64_t first = unit / parts * kColumns;
    const int64_t columns = std::min(kColumns, padded - first);
    p.b = data_of<const uint32_t>(weight) + first * plan.kernel * p.depth;
    p.b_stride = columns;
    const int64_t last_row = std::min((unit % parts + 1) * part_size, rows);
    for (int64_t row = unit % parts * part_size; row < last_row; row += kRows) {
      const int64_t count = std::min(kRows, last_row - row);
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t at = row + std::min(r, count - 1);
        p.a[r] = static_cast<const char*>(x->data) + static_cast<size_t>(at / n) * x->nb[2] +
                 static_cast<size_t>(at % n * plan.stride) * x->nb[1];
      }
      multiply_tile(p, columns);
      for (int64_t r = 0; r < count; ++r) {
        const int64_t at = (row + r) * out + first;
        const auto from = [first](const float* v) { return v == nullptr ? nullptr : v + first; };
        finish(tile.data() + r * kColumns,
               {from(bias), plan.gelu != 0, from(gate), residual == nullptr ? nullptr : residual + at},
               data_of<float>(dst) + at, std::min(columns, out - first));
      }
    }
  }
}

// Bytes of so many numbers, up to the next line of the cache.
int64_t result_size(int64_t numbers) {
  return round_up(numbers * static_cast<int64_t>(ggml_type_size(input_type())), 64);
}

struct HeadPlan {
  float eps;
  uint16_t dim;
  uint16_t has_mask;
};

// src: qkv, keys, values, slots, the four norms, mask. dst: the result, then the threads' scratch. Threads
// share out heads.
void attend_share(ggml_tensor* dst, int ith, int nth, void* packed_plan) {
  const auto plan = from_pointer<HeadPlan>(packed_plan);
  const ggml_tensor* qkv = dst->src[0];
  const ggml_tensor* keys = dst->src[1];
  const ggml_tensor* values = dst->src[2];
  const int64_t n = qkv->ne[1];
  const int64_t batch = qkv->ne[2];
  CachedHead h{};
  h.dim = plan.dim;
  h.width = qkv->ne[0] / 3;
  h.row_stride = qkv->ne[0];
  h.n = n;
  h.slots = data_of<const int64_t>(dst->src[3]);
  h.q_weight = data_of<const float>(dst->src[4]);
  h.q_bias = data_of<const float>(dst->src[5]);
  h.k_weight = data_of<const float>(dst->src[6]);
  h.k_bias = data_of<const float>(dst->src[7]);
  h.eps = plan.eps;
  h.keys_stride = keys->ne[0];
  h.values_stride = values->ne[0];
  const ggml_tensor* last = dst->src[8];  // its length is the number of keys, whether it masks or not
  h.n_keys = last->ne[0];
  h.mask = plan.has_mask != 0 ? data_of<const float>(last) : nullptr;
  h.out_stride = h.width;
  const HeadScratch s(h.dim, h.n_keys);
  const size_t number = ggml_type_size(input_type());
  char* result = static_cast<char*>(dst->data);
  float* scratch = reinterpret_cast<float*>(result + result_size(h.width * n * batch)) + ith * s.size;
  const int64_t n_heads = h.width / h.dim;
  const auto run = OMNI_BEST_BF16_TARGET(attend_cached_head);
  for (int64_t unit = n_heads * batch * ith / nth; unit < n_heads * batch * (ith + 1) / nth; ++unit) {
    const int64_t b = unit / n_heads;
    h.offset = unit % n_heads * h.dim;
    h.qkv = data_of<const float>(qkv) + b * n * h.row_stride;
    h.keys = data_of<uint32_t>(keys) + (b * h.width + h.offset) / 2 * h.keys_stride;
    h.values = reinterpret_cast<uint32_t*>(static_cast<char*>(values->data) +
                                           static_cast<size_t>(b) * values->nb[2]) +
               h.offset;
    h.out = result + static_cast<size_t>(b * n * h.width + h.offset) * number;
    run(h, s, scratch);
  }
}

}  // namespace
#endif  // OMNI_HAS_TARGETS

bool available(const Device& device) {
#ifdef OMNI_HAS_TARGETS
  return device.is_host();
#else
  (void)device;
  return false;
#endif
}

ggml_type input_type() {
#ifdef OMNI_HAS_TARGETS
  return OMNI_HAS_BF16_DOT ? GGML_TYPE_BF16 : GGML_TYPE_F32;
#else
  return GGML_TYPE_F32;
#endif
}

ggml_tensor* multiply(ggml_context* ctx, const Matrix& m, ggml_tensor* x, const After& after) {
#ifdef OMNI_HAS_TARGETS
  const int64_t n = (x->ne[1] - (m.kernel - 1) * m.dilation - 1) / m.stride + 1;
  require(x->ne[0] * m.kernel == m.weight->ne[0] && x->ne[0] % 2 == 0 && n > 0 && x->ne[3] == 1,
          ErrorCode::internal, "a product in panels can't take [", x->ne[0], ", ", x->ne[1], "]");
  if (x->type != input_type()) {
    x = ggml_cast(ctx, x, input_type());
  } else if (!ggml_is_contiguous_rows(x) || x->nb[1] != ggml_row_size(x->type, x->ne[0])) {
    x = ggml_cont(ctx, x);
  }
  Plan plan{static_cast<uint8_t>(m.kernel),
            static_cast<uint8_t>(m.stride),
            static_cast<uint8_t>(m.dilation),
            0,
            0,
            0,
            static_cast<uint8_t>(after.gelu ? 1 : 0)};
  std::array<ggml_tensor*, 5> sources = {m.weight, x};
  int count = 2;
  const auto add = [&](ggml_tensor* t) {
    if (t == nullptr) return false;
    sources[static_cast<size_t>(count++)] = t;
    return true;
  };
  plan.has_bias = add(m.bias) ? 1 : 0;
  plan.has_gate = add(after.gate) ? 1 : 0;
  plan.has_residual = add(after.residual) ? 1 : 0;
  require(
      after.residual == nullptr || (ggml_is_contiguous(after.residual) && after.residual->ne[0] == m.out &&
                                    after.residual->ne[1] == n && after.residual->ne[2] == x->ne[2]),
      ErrorCode::internal, "a product is added to a tensor of another shape");
  return ggml_custom_4d(ctx, GGML_TYPE_F32, m.out, n, x->ne[2], 1, sources.data(), count, multiply_share,
                        GGML_N_TASKS_MAX, as_pointer(plan));
#else
  (void)ctx, (void)m, (void)x, (void)after;
  fail(ErrorCode::internal, "products in panels are not part of this build");
#endif
}

ggml_tensor* attend(ggml_context* ctx, const Device& device, ggml_tensor* qkv, const HeadNorms& norms,
                    const CacheShape& shape, ggml_tensor* keys, ggml_tensor* values, ggml_tensor* slots,
                    ggml_tensor* mask, int64_t n_keys) {
#ifdef OMNI_HAS_TARGETS
  const int64_t width = shape.dim * shape.n_heads;
  const int64_t n = qkv->ne[1];
  const int64_t batch = qkv->ne[2];
  require(qkv->ne[0] == 3 * width && ggml_is_contiguous(qkv) && n_keys <= shape.rows && shape.dim % 2 == 0 &&
              keys->ne[0] == shape.key_columns() && values->ne[0] == shape.value_columns(),
          ErrorCode::internal, "attention over a cache of another shape");
  // Without a mask, some view of the length of the keys stands for it.
  ggml_tensor* length = mask != nullptr ? mask : ggml_view_1d(ctx, keys, n_keys, 0);
  std::array<ggml_tensor*, 9> sources = {qkv,          keys,           values,       slots, norms.q_weight,
                                         norms.q_bias, norms.k_weight, norms.k_bias, length};
  const HeadPlan plan{norms.eps, static_cast<uint16_t>(shape.dim), static_cast<uint16_t>(mask != nullptr)};
  // The result, then the threads' scratch, which the graph's allocator thus provides.
  const auto number = static_cast<int64_t>(ggml_type_size(input_type()));
  const int64_t scratch = HeadScratch(shape.dim, n_keys).size * device.n_threads();
  const int64_t size = result_size(width * n * batch) + scratch * static_cast<int64_t>(sizeof(float));
  ggml_tensor* out =
      ggml_custom_4d(ctx, input_type(), size / number, 1, 1, 1, sources.data(),
                     static_cast<int>(sources.size()), attend_share, GGML_N_TASKS_MAX, as_pointer(plan));
  const size_t row = ggml_row_size(out->type, width);
  return ggml_view_3d(ctx, out, width, n, batch, row, row * static_cast<size_t>(n), 0);
#else
  (void)ctx, (void)device, (void)qkv, (void)norms, (void)shape, (void)keys, (void)values, (void)slots,
      (void)mask, (void)n_keys;
  fail(ErrorCode::internal, "attention in panels is not part of this build");
#endif
}

}  // namespace omni::panels
