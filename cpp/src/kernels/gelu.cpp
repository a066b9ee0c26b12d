// kernels/gelu.cpp - bias and GELU in one pass over the activations.
#include "kernels/gelu.h"

#include <algorithm>

#define OMNI_KERNEL_FILE "kernels/gelu.inc"
#include "kernels/for_each_target.h"

namespace omni {
namespace {

#ifdef OMNI_HAS_TARGETS

template <bool kErf>
void gelu_rows(ggml_tensor* dst, const ggml_tensor* x, const ggml_tensor* bias, int ith, int nth, void*) {
  const int64_t rows = ggml_nrows(x);
  const int64_t each = (rows + nth - 1) / nth;
  const auto run = OMNI_BEST_TARGET(gelu_row<kErf>);
  for (int64_t r = ith * each; r < std::min(rows, (ith + 1) * each); ++r) {
    run(reinterpret_cast<float*>(static_cast<char*>(dst->data) + r * dst->nb[1]),
        static_cast<const float*>(bias->data), x->ne[0]);
  }
}

#endif  // OMNI_HAS_TARGETS

}  // namespace

ggml_tensor* gelu_tanh(ggml_context* ctx, const Device& device, ggml_tensor* x, ggml_tensor* bias) {
#ifdef OMNI_HAS_TARGETS
  if (device.is_host()) {
    return ggml_map_custom2_inplace(ctx, x, bias, gelu_rows<false>, GGML_N_TASKS_MAX, nullptr);
  }
#endif
  (void)device;
  return ggml_gelu(ctx, ggml_add(ctx, x, bias));
}

ggml_tensor* gelu_erf(ggml_context* ctx, const Device& device, ggml_tensor* x, ggml_tensor* bias) {
#ifdef OMNI_HAS_TARGETS
  if (device.is_host()) {
    return ggml_map_custom2_inplace(ctx, x, bias, gelu_rows<true>, GGML_N_TASKS_MAX, nullptr);
  }
#endif
  (void)device;
  return ggml_gelu_erf(ctx, ggml_add(ctx, x, bias));
}

}  // namespace omni
