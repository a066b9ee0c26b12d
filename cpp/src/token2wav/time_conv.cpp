// token2wav/time_conv.cpp - taps out of stored kernels, and their products.
#include "token2wav/time_conv.h"

#include "omni/error.h"

namespace omni {

void read_floats(const GgufTensor& source, float* out) {
  std::vector<float> scratch;
  convert_elements(source.type, source.data, GGML_TYPE_F32, out, source.elements(), scratch);
}

TimeConv load_time_conv(Weights& weights, const std::string& name, int64_t taps, int64_t in, int64_t out,
                        Bias bias) {
  TimeConv layer;
  const GgufTensor& source = weights.file().tensor(name + ".weight", {taps, in, out});
  for (int64_t tap = 0; tap < taps; ++tap) {
    layer.taps.push_back(
        weights.computed(str(name, ".tap", tap), {in, out}, [&source, taps, tap](float* values) {
          std::vector<float> kernel(static_cast<size_t>(source.elements()));
          read_floats(source, kernel.data());
          for (size_t at = static_cast<size_t>(tap); at < kernel.size(); at += static_cast<size_t>(taps)) {
            *values++ = kernel[at];
          }
        }));
  }
  if (bias == Bias::required) layer.bias = weights.f32(name + ".bias", {out});
  return layer;
}

ggml_tensor* time_conv(ggml_context* ctx, const TimeConv& layer, ggml_tensor* x, const TimeConvShape& shape) {
  if (shape.left > 0 || shape.right > 0) {
    x = ggml_pad_ext(ctx, x, 0, 0, shape.left, shape.right, 0, 0, 0, 0);
  }
  const auto taps = static_cast<int64_t>(layer.taps.size());
  const int64_t rows = (x->ne[1] - shape.dilation * (taps - 1) - 1) / shape.stride + 1;
  ggml_tensor* sum = nullptr;
  for (int64_t tap = 0; tap < taps; ++tap) {
    const size_t offset = static_cast<size_t>(tap * shape.dilation) * x->nb[1];
    ggml_tensor* part =
        ggml_view_2d(ctx, x, x->ne[0], rows, x->nb[1] * static_cast<size_t>(shape.stride), offset);
    if (shape.stride > 1) part = ggml_cont(ctx, part);
    const Linear matrix{layer.taps[static_cast<size_t>(tap)], tap == 0 ? layer.bias : nullptr};
    ggml_tensor* product = linear(ctx, matrix, part);
    sum = sum == nullptr ? product : ggml_add(ctx, sum, product);
  }
  return sum;
}

}  // namespace omni
