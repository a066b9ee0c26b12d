// token2wav/s3_tokenizer.cpp - encoder with FSMN memory, and the finite scalar quantiser.
#include "token2wav/s3_tokenizer.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace omni {
namespace {

constexpr int64_t kHeadDim = 64;
constexpr int64_t kMemoryTaps = 31;
constexpr float kRopeBase = 10000.0F;
constexpr float kAttnNormEps = 1e-6F;
constexpr float kFfnNormEps = 1e-5F;

}  // namespace

std::vector<int32_t> s3_tokens(std::span<const float> codes) {
  std::vector<int32_t> tokens(codes.size() / kTokenDigits);
  for (size_t i = 0; i < tokens.size(); ++i) {
    int32_t weight = 1;
    for (size_t j = 0; j < kTokenDigits; ++j) {
      const float z = std::clamp(std::tanh(codes[i * kTokenDigits + j]), -1.0F + 1e-6F, 1.0F - 1e-6F);
      tokens[i] += weight * static_cast<int32_t>(std::nearbyint(z + 1.0F));
      weight *= 3;
    }
  }
  return tokens;
}

S3Tokenizer::S3Tokenizer(const std::shared_ptr<const GgufFile>& file, std::shared_ptr<Device> device,
                         const LinearPolicy& policy)
    : weights_(file, std::move(device)) {
  require(file->text("general.architecture", "") == "omni-speech-tokenizer", ErrorCode::unsupported,
          file->path(), ": is not a speech tokenizer; convert speech_tokenizer_v2_25hz.onnx to get one");
  Weights& w = weights_;
  const GgufTensor& first = file->tensor("encoder.conv1.weight");
  const int64_t ffn = file->tensor("encoder.blocks.0.mlp.0.weight").ne[1];
  mel_bins_ = first.ne[1];
  width_ = first.ne[2];
  require(width_ % kHeadDim == 0 && width_ >= kHeadDim && mel_bins_ >= 1 && mel_bins_ <= 1000,
          ErrorCode::format, file->path(), ": tensor 'encoder.conv1.weight' has shape ", shape_text(first.ne),
          "; a width that is a multiple of ", kHeadDim, " was expected");
  conv1_ = load_conv1d(w, "encoder.conv1", 3, mel_bins_, width_, {}, 2);
  conv2_ = load_conv1d(w, "encoder.conv2", 3, width_, width_, {}, 2);
  const auto norm_of = [&](const std::string& name) {
    return Norm{w.f32(name + ".weight", {width_}), w.f32(name + ".bias", {width_})};
  };
  for (size_t i = 0; w.has(str("encoder.blocks.", i, ".attn.query.weight")); ++i) {
    const std::string block = str("encoder.blocks.", i, ".");
    const auto dense = [&](const char* name, int64_t in, int64_t out, Bias bias) {
      return load_linear(w, block + name, in, out, bias, policy);
    };
    Layer& layer = layers_.emplace_back();
    layer.attn_norm = norm_of(block + "attn_ln");
    layer.q = dense("attn.query", width_, width_, Bias::required);
    layer.k = dense("attn.key", width_, width_, Bias::none);
    layer.v = dense("attn.value", width_, width_, Bias::required);
    layer.o = dense("attn.out", width_, width_, Bias::required);
    layer.ffn_norm = norm_of(block + "mlp_ln");
    layer.up = dense("mlp.0", width_, ffn, Bias::required);
    layer.down = dense("mlp.2", ffn, width_, Bias::required);
    // Stored channel by channel; the operator on rows of channels wants it tap by tap.
    const GgufTensor& memory = file->tensor(block + "attn.fsmn_block.weight", {kMemoryTaps, 1, width_});
    layer.memory = w.computed(block + "attn.memory", {1, width_, kMemoryTaps}, [&memory](float* values) {
      std::vector<float> kernels(static_cast<size_t>(memory.elements()));
      read_floats(memory, kernels.data());
      const auto channels = static_cast<size_t>(memory.ne[2]);
      for (size_t at = 0; at < kernels.size(); ++at) {
        values[at] = kernels[at % channels * kMemoryTaps + at / channels];
      }
    });
  }
  require(!layers_.empty(), ErrorCode::format, file->path(), ": has no encoder blocks");
  project_ = load_linear(w, "quantizer._codebook.project_down", width_, kTokenDigits, Bias::required, policy);
  w.load();
}

ggml_tensor* S3Tokenizer::norm(ggml_context* ctx, const Norm& layer, ggml_tensor* x, float eps) {
  return ggml_add(ctx, ggml_mul(ctx, ggml_norm(ctx, x, eps), layer.weight), layer.bias);
}

ggml_tensor* S3Tokenizer::attend(ggml_context* ctx, const Layer& layer, ggml_tensor* x,
                                 ggml_tensor* positions) const {
  const int64_t n = x->ne[1];
  const int64_t n_heads = width_ / kHeadDim;
  const auto turned = [&](const Linear& dense) {  // [head_dim, n, heads], rotated
    ggml_tensor* y = ggml_reshape_3d(ctx, linear(ctx, dense, x), kHeadDim, n_heads, n);
    y = ggml_rope_ext(ctx, y, positions, nullptr, kHeadDim, GGML_ROPE_TYPE_NEOX, 0, kRopeBase, 1.0F, 0.0F,
                      1.0F, 0.0F, 0.0F);
    return ggml_permute(ctx, y, 0, 2, 1, 3);
  };
  ggml_tensor* v = linear(ctx, layer.v, x);
  ggml_tensor* heads = ggml_permute(ctx, ggml_reshape_3d(ctx, v, kHeadDim, n_heads, n), 0, 2, 1, 3);
  const float scale = 1.0F / std::sqrt(static_cast<float>(kHeadDim));
  ggml_tensor* out =
      ggml_flash_attn_ext(ctx, turned(layer.q), turned(layer.k), heads, nullptr, scale, 0.0F, 0.0F);
  ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
  out = linear(ctx, layer.o, ggml_reshape_2d(ctx, out, width_, n));
  // The memory: each channel of the values convolved with its kernel, as an image one row high.
  ggml_tensor* kernel = ggml_permute(ctx, layer.memory, 2, 3, 0, 1);  // [taps, 1, 1, width]
  ggml_tensor* image = ggml_permute(ctx, ggml_reshape_3d(ctx, v, width_, n, 1), 2, 0, 1, 3);  // [n, 1, width]
  ggml_tensor* memory = ggml_conv_2d_dw_direct(ctx, kernel, image, 1, 1, kMemoryTaps / 2, 0, 1, 1);
  memory = ggml_reshape_2d(ctx, ggml_permute(ctx, memory, 1, 2, 0, 3), width_, n);
  return ggml_add(ctx, out, ggml_add(ctx, memory, v));
}

std::vector<float> S3Tokenizer::codes(Executor& executor, std::span<const float> mel) const {
  const int64_t frames = static_cast<int64_t>(mel.size()) / mel_bins_;
  require(frames >= 5 && static_cast<int64_t>(mel.size()) == frames * mel_bins_, ErrorCode::invalid_argument,
          "the speech tokenizer takes [", mel_bins_, ", n] with at least 5 frames, got ", mel.size(),
          " values");
  const int64_t n = s3_token_count(frames);
  const Graph graph(64 + 48 * layers_.size());
  ggml_context* ctx = graph.ctx();
  ggml_tensor* input = graph.input(GGML_TYPE_F32, {mel_bins_, frames}, "mel");
  ggml_tensor* positions = graph.input(GGML_TYPE_I32, {n}, "positions");
  ggml_tensor* x = ggml_gelu_erf(ctx, conv1d(ctx, conv1_, with_zeros(ctx, input, 1, 1)));
  x = ggml_gelu_erf(ctx, conv1d(ctx, conv2_, with_zeros(ctx, x, 1, 1)));
  for (const Layer& layer : layers_) {
    x = ggml_add(ctx, x, attend(ctx, layer, norm(ctx, layer.attn_norm, x, kAttnNormEps), positions));
    ggml_tensor* h = norm(ctx, layer.ffn_norm, x, kFfnNormEps);
    h = ggml_gelu_erf(ctx, linear(ctx, layer.up, h));
    x = ggml_add(ctx, x, linear(ctx, layer.down, h));
  }
  ggml_tensor* output = graph.output(linear(ctx, project_, x), "codes");
  executor.place(graph);
  std::vector<int32_t> steps(static_cast<size_t>(n));
  std::iota(steps.begin(), steps.end(), 0);
  executor.set<float>(input, mel);
  executor.set<int32_t>(positions, steps);
  executor.compute(graph);
  std::vector<float> result(static_cast<size_t>(kTokenDigits * n));
  executor.get<float>(output, result);
  return result;
}

}  // namespace omni
