// token2wav/campplus.cpp - a convolutional head, densely connected layers with context gates, and statistics.
#include "token2wav/campplus.h"

#include "omni/error.h"

#include <cmath>

namespace omni {
namespace {

constexpr double kNormEps = 1e-5;
constexpr int64_t kHeadRows = kSpeakerFeatures / 8;  // three convolutions of the head halve the frequencies
constexpr int64_t kSegment = 100;                    // rows of one block of context
constexpr int kDilations[] = {1, 2, 2};

}  // namespace

SpeakerEncoder::SpeakerEncoder(const std::shared_ptr<const GgufFile>& file, std::shared_ptr<Device> device)
    : weights_(file, std::move(device)) {
  require(file->text("general.architecture", "") == "omni-speaker-encoder", ErrorCode::unsupported,
          file->path(), ": is not a speaker encoder; convert campplus.onnx to get one");
  head_channels_ = file->tensor("head.conv1.weight").ne[3];
  load_head();
  int64_t channels = file->tensor("xvector.tdnn.linear.weight").ne[2];
  tdnn_ = load_conv1d(weights_, "xvector.tdnn.linear", 5, head_channels_ * kHeadRows, channels, {}, 2);
  for (size_t i = 0; i < blocks_.size(); ++i) channels = load_block(i, channels, kDilations[i]);
  width_ = file->tensor("xvector.dense.linear.weight").ne[2];
  project_ = load_conv1d(weights_, "xvector.dense.linear", 1, 2 * channels, width_, {}, 1, 1, Bias::none);
  output_norm_ = load_norm("xvector.dense.nonlinear.batchnorm", width_, false);
  weights_.load();
}

// Computed in double and rounded once.
SpeakerEncoder::Affine SpeakerEncoder::load_norm(const std::string& name, int64_t n, bool has_weights) {
  const auto read = [this, n, name](const char* part, double otherwise) {
    std::vector<float> values(static_cast<size_t>(n), static_cast<float>(otherwise));
    if (part != nullptr) read_floats(weights_.file().tensor(name + part, {n}), values.data());
    return values;
  };
  const char* weight = has_weights ? ".weight" : nullptr;
  const char* bias = has_weights ? ".bias" : nullptr;
  for (const char* part : {weight, bias, ".running_mean", ".running_var"}) read(part, 0);  // all checked now
  const auto scale_of = [](float gain, float variance) { return gain / std::sqrt(variance + kNormEps); };
  Affine layer;
  layer.scale = weights_.computed(name + ".scale", {n}, [=](float* values) {
    const std::vector<float> gains = read(weight, 1);
    const std::vector<float> variances = read(".running_var", 1);
    for (size_t i = 0; i < gains.size(); ++i) {
      values[i] = static_cast<float>(scale_of(gains[i], variances[i]));
    }
  });
  layer.shift = weights_.computed(name + ".shift", {n}, [=](float* values) {
    const std::vector<float> gains = read(weight, 1);
    const std::vector<float> shifts = read(bias, 0);
    const std::vector<float> means = read(".running_mean", 0);
    const std::vector<float> variances = read(".running_var", 1);
    for (size_t i = 0; i < gains.size(); ++i) {
      values[i] = static_cast<float>(shifts[i] - means[i] * scale_of(gains[i], variances[i]));
    }
  });
  return layer;
}

SpeakerEncoder::ImageConv SpeakerEncoder::load_image_conv(const std::string& name, int64_t size, int64_t in,
                                                          int64_t out, int stride) {
  ImageConv layer{.kernel = weights_.f32(name + ".weight", {size, size, in, out}),
                  .stride = stride,
                  .pad = static_cast<int>(size) / 2};
  const GgufTensor& bias = weights_.file().tensor(name + ".bias", {out});
  layer.bias =
      weights_.computed(name + ".plane", {1, 1, out}, [&bias](float* values) { read_floats(bias, values); });
  return layer;
}

void SpeakerEncoder::load_head() {
  const int64_t c = head_channels_;
  first_ = load_image_conv("head.conv1", 3, 1, c, 1);
  for (size_t i = 0; i < residuals_.size(); ++i) {
    const std::string place = str("head.layer", i / 2 + 1, ".", i % 2, ".");
    const int stride = i % 2 == 0 ? 2 : 1;
    Residual& layer = residuals_[i];
    layer.conv1 = load_image_conv(place + "conv1", 3, c, c, stride);
    layer.conv2 = load_image_conv(place + "conv2", 3, c, c, 1);
    if (stride == 2) layer.shortcut = load_image_conv(place + "shortcut.0", 1, c, c, stride);
  }
  last_ = load_image_conv("head.conv2", 3, c, c, 2);
}

// Returns the channels after the block.
int64_t SpeakerEncoder::load_block(size_t number, int64_t channels, int dilation) {
  Weights& w = weights_;
  DenseBlock& block = blocks_[number];
  const std::string prefix = str("xvector.block", number + 1, ".tdnnd");
  for (int i = 1; w.has(str(prefix, i, ".linear1.weight")); ++i) {
    const std::string place = str(prefix, i, ".");
    const int64_t bottleneck = w.file().tensor(place + "linear1.weight").ne[2];
    const int64_t growth = w.file().tensor(place + "cam_layer.linear_local.weight").ne[2];
    DenseLayer& layer = block.layers.emplace_back();
    layer.norm = load_norm(place + "nonlinear1.batchnorm", channels, true);
    layer.squeeze = load_conv1d(w, place + "linear1", 1, channels, bottleneck);
    const std::string cam = place + "cam_layer.";
    layer.local = load_conv1d(w, cam + "linear_local", 3, bottleneck, growth, {}, 1, dilation, Bias::none);
    layer.context1 = load_conv1d(w, cam + "linear1", 1, bottleneck, bottleneck / 2);
    layer.gate = load_conv1d(w, cam + "linear2", 1, bottleneck / 2, growth);
    channels += growth;
  }
  require(!block.layers.empty(), ErrorCode::format, w.file().path(), ": has no tensors ", prefix, "*");
  const std::string transit = str("xvector.transit", number + 1, ".");
  block.norm = load_norm(transit + "nonlinear.batchnorm", channels, true);
  // The last block's normalisation is part of its convolution, hence the bias.
  const Bias bias = number + 1 == blocks_.size() ? Bias::required : Bias::none;
  block.halve = load_conv1d(w, transit + "linear", 1, channels, channels / 2, {}, 1, 1, bias);
  return channels / 2;
}

ggml_tensor* SpeakerEncoder::affine(ggml_context* ctx, const Affine& layer, ggml_tensor* x) {
  return ggml_add(ctx, ggml_mul(ctx, x, layer.scale), layer.shift);
}

ggml_tensor* SpeakerEncoder::image_conv(ggml_context* ctx, const ImageConv& layer, ggml_tensor* x) {
  x = ggml_conv_2d_direct(ctx, layer.kernel, x, 1, layer.stride, layer.pad, layer.pad, 1, 1);
  return ggml_add(ctx, x, layer.bias);
}

ggml_tensor* SpeakerEncoder::residual(ggml_context* ctx, const Residual& layer, ggml_tensor* x) {
  ggml_tensor* y = ggml_relu(ctx, image_conv(ctx, layer.conv1, x));
  y = image_conv(ctx, layer.conv2, y);
  if (layer.shortcut.kernel != nullptr) x = image_conv(ctx, layer.shortcut, x);
  return ggml_relu(ctx, ggml_add(ctx, y, x));
}

ggml_tensor* SpeakerEncoder::dense(ggml_context* ctx, const DenseLayer& layer, ggml_tensor* x,
                                   const Segments& segments) {
  ggml_tensor* h = ggml_relu(ctx, affine(ctx, layer.norm, x));
  h = ggml_relu(ctx, conv1d(ctx, layer.squeeze, h));
  ggml_tensor* local =
      conv1d(ctx, layer.local, with_zeros(ctx, h, layer.local.dilation, layer.local.dilation));
  // The gate is the same for all rows of a segment, so it is computed once for each.
  ggml_tensor* context = ggml_mul_mat(ctx, ggml_cont(ctx, ggml_transpose(ctx, h)), segments.means);
  ggml_tensor* gate = ggml_relu(ctx, conv1d(ctx, layer.context1, context));
  gate = ggml_sigmoid(ctx, conv1d(ctx, layer.gate, gate));
  ggml_tensor* grown = ggml_mul(ctx, local, ggml_get_rows(ctx, gate, segments.index));
  return ggml_concat(ctx, x, grown, 0);
}

// x [channels, n] -> mean and unbiased standard deviation over n: [2 * channels].
ggml_tensor* SpeakerEncoder::statistics(ggml_context* ctx, ggml_tensor* x) {
  const int64_t channels = x->ne[0];
  const int64_t n = x->ne[1];
  x = ggml_cont(ctx, ggml_transpose(ctx, x));
  ggml_tensor* mean = ggml_mean(ctx, x);
  ggml_tensor* squares = ggml_sum_rows(ctx, ggml_sqr(ctx, ggml_sub(ctx, x, mean)));
  ggml_tensor* deviation = ggml_sqrt(ctx, ggml_scale(ctx, squares, 1.0F / static_cast<float>(n - 1)));
  return ggml_concat(ctx, ggml_reshape_1d(ctx, mean, channels), ggml_reshape_1d(ctx, deviation, channels), 0);
}

std::vector<float> SpeakerEncoder::embed(Executor& executor, std::span<const float> features,
                                         TailDivisor divisor) const {
  const int64_t frames = static_cast<int64_t>(features.size()) / kSpeakerFeatures;
  require(frames >= kMinSpeakerFrames && static_cast<int64_t>(features.size()) == frames * kSpeakerFeatures,
          ErrorCode::invalid_argument, "the speaker encoder takes [", kSpeakerFeatures, ", n] with at least ",
          kMinSpeakerFrames, " frames, got ", features.size(), " values");
  const int64_t rows = (frames - 1) / 2 + 1;
  const int64_t n_segments = (rows + kSegment - 1) / kSegment;
  size_t n_layers = 0;
  for (const DenseBlock& block : blocks_) n_layers += block.layers.size();

  const Graph graph(256 + 40 * n_layers);
  ggml_context* ctx = graph.ctx();
  ggml_tensor* input = graph.input(GGML_TYPE_F32, {kSpeakerFeatures, frames}, "features");
  Segments segments;
  segments.means = graph.input(GGML_TYPE_F32, {rows, n_segments}, "means");
  segments.index = graph.input(GGML_TYPE_I32, {rows}, "index");
  // The head sees a picture, [time, frequency, channels]; the rest sees rows of channels.
  ggml_tensor* x = ggml_cont(ctx, ggml_transpose(ctx, input));
  x = ggml_relu(ctx, image_conv(ctx, first_, x));
  for (const Residual& layer : residuals_) x = residual(ctx, layer, x);
  x = ggml_relu(ctx, image_conv(ctx, last_, x));
  x = ggml_cont(ctx, ggml_transpose(ctx, ggml_reshape_2d(ctx, x, frames, head_channels_ * kHeadRows)));
  x = ggml_relu(ctx, conv1d(ctx, tdnn_, with_zeros(ctx, x, 2, 2)));
  for (const DenseBlock& block : blocks_) {
    for (const DenseLayer& layer : block.layers) x = dense(ctx, layer, x, segments);
    x = conv1d(ctx, block.halve, ggml_relu(ctx, affine(ctx, block.norm, x)));
  }
  x = statistics(ctx, ggml_relu(ctx, x));
  x = affine(ctx, output_norm_, conv1d(ctx, project_, x));
  ggml_tensor* output = graph.output(x, "embedding");
  executor.place(graph);

  std::vector<float> means(static_cast<size_t>(rows * n_segments));
  std::vector<int32_t> index(static_cast<size_t>(rows));
  for (int64_t row = 0; row < rows; ++row)
    index[static_cast<size_t>(row)] = static_cast<int32_t>(row / kSegment);
  for (int64_t s = 0; s < n_segments; ++s) {
    const int64_t first = s * kSegment;
    const int64_t count = std::min(kSegment, rows - first);
    const int64_t parts = divisor == TailDivisor::own_length ? count : kSegment;
    // The mean over everything, and that over the segment on top of it.
    float* weights = means.data() + s * rows;
    std::fill_n(weights, rows, 1.0F / static_cast<float>(rows));
    for (int64_t row = first; row < first + count; ++row) weights[row] += 1.0F / static_cast<float>(parts);
  }
  executor.set<float>(input, features);
  executor.set<float>(segments.means, means);
  executor.set<int32_t>(segments.index, index);
  executor.compute(graph);
  std::vector<float> result(static_cast<size_t>(width_));
  executor.get<float>(output, result);
  return result;
}

}  // namespace omni
