// kernels/conv1d.cpp - convolution weights as matrices, signals as overlapping rows.
#include "kernels/conv1d.h"

#include "omni/error.h"

#include "kernels/panels.h"

namespace omni {
namespace {

// x [in, n, batch] -> [kernel * in, n_out, batch], row t holds the frames that output t sees.
ggml_tensor* unfold(ggml_context* ctx, const Conv1d& conv, ggml_tensor* x, int64_t n_out) {
  const int64_t in = x->ne[0];
  // The rows overlap, which the view functions of ggml don't express: the extents are set by hand.
  ggml_tensor* rows = ggml_view_1d(ctx, x, 1, 0);
  const size_t step = static_cast<size_t>(conv.stride) * x->nb[1];
  if (conv.dilation == 1) {
    rows->ne[0] = conv.kernel * in;
    rows->ne[1] = n_out;
    rows->ne[2] = x->ne[2];
    rows->nb[1] = step;
    rows->nb[2] = x->nb[2];
    rows->nb[3] = x->nb[2] * static_cast<size_t>(x->ne[2]);
    return ggml_cont(ctx, rows);
  }
  rows->ne[0] = in;
  rows->ne[1] = conv.kernel;
  rows->ne[2] = n_out;
  rows->ne[3] = x->ne[2];
  rows->nb[1] = static_cast<size_t>(conv.dilation) * x->nb[1];
  rows->nb[2] = step;
  rows->nb[3] = x->nb[2];
  return ggml_reshape_3d(ctx, ggml_cont(ctx, rows), conv.kernel * in, n_out, x->ne[2]);
}

void check(const Conv1d& conv, const ggml_tensor* x) {
  require(x->ne[1] > conv.reach() && x->ne[3] == 1 && x->ne[0] * conv.kernel == conv.taps.weight->ne[0],
          ErrorCode::internal, "a convolution with kernel ", conv.kernel, " and dilation ", conv.dilation,
          " can't take [", x->ne[0], ", ", x->ne[1], "]");
}

ggml_tensor* by_panels(ggml_context* ctx, const Conv1d& conv, ggml_tensor* x,
                       const panels::After& after = {}) {
  const Linear& taps = conv.taps;
  return panels::multiply(
      ctx, {taps.weight, taps.bias, taps.outputs_in_panels, conv.kernel, conv.stride, conv.dilation}, x,
      after);
}

}  // namespace

Conv1d load_conv1d(Weights& weights, const std::string& name, int64_t kernel, int64_t in, int64_t out,
                   const LinearPolicy& policy, int64_t stride, int64_t dilation, Bias bias) {
  const GgufTensor& source = weights.file().tensor(name + ".weight", {kernel, in, out});
  const auto fill = [&file = weights.file(), &source, kernel, in, out](float* to) {
    std::vector<float> from(static_cast<size_t>(source.elements()));
    read_floats(source, from.data());
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i) {
        for (int64_t k = 0; k < kernel; ++k) {
          to[(o * kernel + k) * in + i] = from[static_cast<size_t>((o * in + i) * kernel + k)];
        }
      }
    }
    file.drop_pages(source);
  };
  Conv1d conv;
  conv.kernel = kernel;
  conv.stride = stride;
  conv.dilation = dilation;
  LinearPolicy taps_policy = policy;
  taps_policy.panels = policy.panels && in % 2 == 0 && kernel < 256 && stride < 256 && dilation < 256;
  conv.taps = load_computed_linear(weights, name + ".taps", kernel * in, out, source.type, fill,
                                   bias == Bias::required ? weights.f32(name + ".bias", {out}) : nullptr,
                                   taps_policy);
  return conv;
}

ggml_tensor* conv1d(ggml_context* ctx, const Conv1d& conv, ggml_tensor* x) {
  check(conv, x);
  if (conv.taps.outputs_in_panels != 0) return by_panels(ctx, conv, x);
  const int64_t n_out = (x->ne[1] - conv.reach() - 1) / conv.stride + 1;
  const bool pointwise = conv.kernel == 1 && conv.stride == 1;
  return linear(ctx, conv.taps, pointwise ? x : unfold(ctx, conv, x, n_out));
}

ggml_tensor* with_zeros(ggml_context* ctx, ggml_tensor* x, int64_t before, int64_t behind) {
  return ggml_pad_ext(ctx, x, 0, 0, static_cast<int>(before), static_cast<int>(behind), 0, 0, 0, 0);
}

ggml_tensor* conv1d_onto(ggml_context* ctx, const Conv1d& conv, ggml_tensor* x, ggml_tensor* to,
                         ggml_tensor* gate) {
  if (conv.taps.outputs_in_panels != 0) {
    check(conv, x);
    return by_panels(ctx, conv, x, {.gate = gate, .residual = to});
  }
  ggml_tensor* y = conv1d(ctx, conv, x);
  return ggml_add(ctx, to, gate == nullptr ? y : ggml_mul(ctx, y, gate));
}

}  // namespace omni
