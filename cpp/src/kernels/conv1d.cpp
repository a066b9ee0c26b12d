// kernels/conv1d.cpp - convolution weights as matrices, signals as overlapping rows.
#include "kernels/conv1d.h"

#include "omni/error.h"

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

}  // namespace

Conv1d load_conv1d(Weights& weights, const std::string& name, int64_t kernel, int64_t in, int64_t out,
                   const LinearPolicy& policy, int64_t stride, int64_t dilation) {
  const GgufTensor& source = weights.file().tensor(name + ".weight", {kernel, in, out});
  const auto fill = [&file = weights.file(), &source, kernel, in, out](float* to) {
    std::vector<float> from(static_cast<size_t>(source.elements()));
    std::vector<float> unused;
    convert_elements(source.type, source.data, GGML_TYPE_F32, from.data(), source.elements(), unused);
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
  conv.taps.weight =
      load_computed_matrix(weights, name + ".taps", kernel * in, out, source.type, fill, policy);
  conv.taps.bias = weights.f32(name + ".bias", {out});
  return conv;
}

ggml_tensor* conv1d(ggml_context* ctx, const Conv1d& conv, ggml_tensor* x) {
  const int64_t n_out = (x->ne[1] - conv.reach() - 1) / conv.stride + 1;
  require(x->ne[1] > conv.reach() && x->nb[0] == sizeof(float) && x->ne[3] == 1 &&
              x->ne[0] * conv.kernel == conv.taps.weight->ne[0],
          ErrorCode::internal, "a convolution with kernel ", conv.kernel, " and dilation ", conv.dilation,
          " can't take [", x->ne[0], ", ", x->ne[1], "]");
  const bool pointwise = conv.kernel == 1 && conv.stride == 1;
  return linear(ctx, conv.taps, pointwise ? x : unfold(ctx, conv, x, n_out));
}

}  // namespace omni
