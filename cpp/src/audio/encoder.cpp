// audio/encoder.cpp - reading the encoder's weights and building its graphs.
#include "audio/encoder.h"

#include "omni/audio.h"
#include "omni/error.h"

#include <algorithm>
#include <cmath>

#include "kernels/gelu.h"

namespace omni {
namespace {

constexpr float kNormEps = 1e-5F;  // the file has no key for it
constexpr int kKernel = 3;

}  // namespace

EncoderConfig EncoderConfig::read(const GgufFile& file) {
  const auto architecture = file.text("general.architecture");
  require(architecture == "whisper", ErrorCode::unsupported, file.path(), ": architecture '", architecture,
          "' is not an audio encoder that omni knows (whisper)");
  EncoderConfig c;
  const auto size = [&](const char* key, int64_t most, std::optional<int64_t> absent = {}) {
    const int64_t value = absent ? file.u32(key, static_cast<uint32_t>(*absent)) : file.u32(key);
    require(value >= 1 && value <= most, ErrorCode::format, file.path(), ": ", key, " is ", value,
            ", which no model has");
    return value;
  };
  c.n_layers = size("encoder_layers", 1024);
  c.width = size("d_model", 1 << 16);
  c.n_heads = size("encoder_attention_heads", c.width);
  c.ffn_width = size("encoder_ffn_dim", 1 << 18, 4 * c.width);
  c.bins = size("n_mel", 1000, kMelBins);
  c.pool = size("audio_pool_step", 50, 5);
  require(c.width % c.n_heads == 0, ErrorCode::format, file.path(), ": ", c.n_heads,
          " heads don't divide a width of ", c.width);
  const auto columns = [&](const char* name, int64_t ne0) {
    const GgufTensor& t = file.tensor(name);
    require(t.n_dims == 2 && t.ne[0] == ne0, ErrorCode::format, file.path(), ": tensor '", name,
            "' has shape ", shape_text(std::span(t.ne).first(static_cast<size_t>(t.n_dims))), ", expected [",
            ne0, ", n]");
    return t.ne[1];
  };
  c.n_positions = columns("encoder.positional_embedding", c.width);
  c.embed_width = columns("audio_projector.linear1.weight", c.width);
  // A second of a stream with its context, and a piece of 30 s, must have positions.
  constexpr int64_t kLeast = kClipSamples / kMelHop / 2;
  require(c.n_positions >= kLeast && c.n_positions <= 1 << 20, ErrorCode::unsupported, file.path(), ": ",
          c.n_positions, " positions; at least ", kLeast, " are needed for 30 s");
  if (!file.has("filters")) {
    c.filters = mel_filter_bank(static_cast<int>(c.bins));
    return c;
  }
  // The key named n_fft counts frequencies, not the samples of a transform.
  const auto frequencies = size("n_fft", 1 << 16, kSpectrumBins);
  require(frequencies == kSpectrumBins, ErrorCode::unsupported, file.path(), ": filters over ", frequencies,
          " frequencies; omni computes ", kSpectrumBins);
  c.filters = file.f32s("filters");
  require(c.filters.size() == static_cast<size_t>(c.bins * kSpectrumBins), ErrorCode::format, file.path(),
          ": 'filters' holds ", c.filters.size(), " weights, expected ", c.bins, " x ", kSpectrumBins);
  return c;
}

Encoder::Encoder(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device,
                 const LinearPolicy& policy)
    : config_(EncoderConfig::read(*file)), weights_(std::move(file), std::move(device)) {
  const EncoderConfig& c = config_;
  conv1_ = load_convolution("encoder.conv1", c.bins);
  conv2_ = load_convolution("encoder.conv2", c.width);
  position_table_ = weights_.f32("encoder.positional_embedding", {c.width, c.n_positions});
  layers_.resize(static_cast<size_t>(c.n_layers));
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string block = str("encoder.blocks.", i, ".");
    const auto dense = [&](const char* name, int64_t in, int64_t out, Bias bias = Bias::required) {
      return load_linear(weights_, block + name, in, out, bias, policy);
    };
    Layer& layer = layers_[i];
    layer.attention_norm = load_norm(block + "attn_ln");
    layer.q = dense("attn.query", c.width, c.width);
    layer.k = dense("attn.key", c.width, c.width, Bias::none);
    layer.v = dense("attn.value", c.width, c.width);
    layer.out = dense("attn.out", c.width, c.width);
    layer.ffn_norm = load_norm(block + "mlp_ln");
    layer.up = dense("mlp.0", c.width, c.ffn_width);
    layer.down = dense("mlp.2", c.ffn_width, c.width);
  }
  final_norm_ = load_norm("encoder.ln_post");
  project1_ =
      load_linear(weights_, "audio_projector.linear1", c.width, c.embed_width, Bias::required, policy);
  project2_ =
      load_linear(weights_, "audio_projector.linear2", c.embed_width, c.embed_width, Bias::required, policy);
  weights_.load();
}

std::vector<const ggml_tensor*> Encoder::matrices() const {
  std::vector<const ggml_tensor*> out = {conv1_.kernel, conv2_.kernel, project1_.weight, project2_.weight};
  for (const Layer& l : layers_) {
    for (const Linear* m : {&l.q, &l.k, &l.v, &l.out, &l.up, &l.down}) out.push_back(m->weight);
  }
  return out;
}

// 1 % of the work, with rows too short for most formats: convolutions stay as the file holds them.
Encoder::Convolution Encoder::load_convolution(const std::string& name, int64_t in) {
  return {weights_.tensor(name + ".weight", {kKernel, in, config_.width}),
          weights_.f32(name + ".bias", {1, config_.width})};
}

Encoder::Norm Encoder::load_norm(const std::string& name) {
  return {weights_.f32(name + ".weight", {config_.width}), weights_.f32(name + ".bias", {config_.width})};
}

ggml_tensor* Encoder::convolve(ggml_context* ctx, const Convolution& conv, ggml_tensor* x, int stride) const {
  // [3 * in, n_out]: what each output sees, tap after tap of each channel, as the kernel is laid out.
  ggml_tensor* seen = ggml_im2col(ctx, conv.kernel, x, stride, 0, kKernel / 2, 0, 1, 0, false, GGML_TYPE_F32);
  const Linear taps{.weight = ggml_reshape_2d(ctx, conv.kernel, kKernel * x->ne[1], config_.width)};
  return linear(ctx, taps, seen);
}

ggml_tensor* Encoder::norm(ggml_context* ctx, ggml_tensor* x, const Norm& norm) const {
  return ggml_add(ctx, ggml_mul(ctx, ggml_norm(ctx, x, kNormEps), norm.weight), norm.bias);
}

ggml_tensor* Encoder::attend(Graph& g, size_t layer, ggml_tensor* x, const EncoderShape& shape,
                             const EncoderCache* cache, const EncoderTensors& t) const {
  ggml_context* ctx = g.ctx();
  const Layer& w = layers_[layer];
  ggml_tensor* q = linear(ctx, w.q, x);
  ggml_tensor* k = linear(ctx, w.k, x);
  ggml_tensor* v = linear(ctx, w.v, x);
  if (cache != nullptr) {
    g.effect(ggml_set_rows(ctx, cache->k[layer], k, t.cache_rows));
    g.effect(ggml_set_rows(ctx, cache->v[layer], v, t.cache_rows));
    const auto first_rows = [&](ggml_tensor* rows) {
      return ggml_view_2d(ctx, rows, config_.width, shape.n_kv, rows->nb[1], 0);
    };
    k = first_rows(cache->k[layer]);
    v = first_rows(cache->v[layer]);
  }
  return linear(ctx, w.out, omni::attend(ctx, weights_.device(), q, k, v, config_.n_heads, t.visible));
}

ggml_tensor* Encoder::average(ggml_context* ctx, ggml_tensor* x) const {
  const int64_t n = x->ne[1] / config_.pool;
  ggml_tensor* sum = nullptr;
  for (int64_t i = 0; i < config_.pool; ++i) {
    ggml_tensor* each = ggml_view_2d(ctx, x, x->ne[0], n, static_cast<size_t>(config_.pool) * x->nb[1],
                                     static_cast<size_t>(i) * x->nb[1]);
    sum = sum == nullptr ? each : ggml_add(ctx, sum, each);
  }
  return ggml_scale(ctx, sum, 1.0F / static_cast<float>(config_.pool));
}

EncoderTensors Encoder::build(Graph& g, const EncoderShape& shape, const EncoderCache* cache,
                              bool stages) const {
  ggml_context* ctx = g.ctx();
  EncoderTensors t;
  t.mel = g.input(GGML_TYPE_F32, {shape.frames, config_.bins}, "mel");
  t.rows = g.input(GGML_TYPE_I32, {shape.positions}, "rows");
  if (cache != nullptr) t.cache_rows = g.input(GGML_TYPE_I64, {shape.positions}, "cache_rows");
  const Device& device = weights_.device();
  if (shape.limited) {
    const int64_t n_kv = cache != nullptr ? shape.n_kv : shape.positions;
    t.visible = Visible::input(g, device, n_kv, shape.positions);
  }

  ggml_tensor* x = convolve(ctx, conv1_, t.mel, 1);
  ggml_tensor* bias = ggml_reshape_1d(ctx, conv1_.bias, config_.width);
  if (stages) t.conv1 = g.output(ggml_add(ctx, x, bias), "conv1");
  x = ggml_cont(ctx, ggml_transpose(ctx, gelu_erf(ctx, device, x, bias)));
  x = convolve(ctx, conv2_, x, 2);
  x = ggml_view_2d(ctx, x, config_.width, shape.positions, x->nb[1],
                   static_cast<size_t>(shape.skipped) * x->nb[1]);
  bias = ggml_reshape_1d(ctx, conv2_.bias, config_.width);
  if (stages) t.conv2 = g.output(ggml_add(ctx, x, bias), "conv2");
  x = gelu_erf(ctx, device, x, bias);
  x = ggml_add(ctx, x, ggml_get_rows(ctx, position_table_, t.rows));
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    x = ggml_add(ctx, x, attend(g, i, norm(ctx, x, layer.attention_norm), shape, cache, t));
    ggml_tensor* f = linear(ctx, {layer.up.weight, nullptr}, norm(ctx, x, layer.ffn_norm));
    x = ggml_add(ctx, x, linear(ctx, layer.down, gelu_erf(ctx, device, f, layer.up.bias)));
    if (stages && i == 0) t.layer0 = g.output(x, "layer0");
  }
  x = ggml_view_2d(ctx, x, config_.width, shape.projected, x->nb[1], 0);
  t.encoded = g.output(norm(ctx, x, final_norm_), "encoded");
  if (shape.projected < config_.pool) return t;
  ggml_tensor* h = ggml_relu(ctx, linear(ctx, project1_, t.encoded));
  if (stages) t.all = g.output(linear(ctx, project2_, h), "projected");
  // The second layer is affine: averaging before it gives the same with a fifth of the work.
  t.embeds = g.output(linear(ctx, project2_, average(ctx, h)), "embeds");
  return t;
}

}  // namespace omni
