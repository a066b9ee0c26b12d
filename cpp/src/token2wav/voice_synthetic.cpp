// token2wav/voice_synthetic.cpp - tensor lists of the published voice networks.
#include "token2wav/voice_synthetic.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/gguf_builder.h"
#include "base/random_weights.h"

namespace omni {
namespace {

// Declares F32 tensors.
struct Tensors {
  GgufBuilder builder;

  void add(const std::string& name, std::vector<int64_t> ne) {
    builder.tensor(name, GGML_TYPE_F32, std::move(ne));
  }
  // A weight whose last dimension is the outputs, and its bias.
  void layer(const std::string& name, std::vector<int64_t> ne) {
    add(name + ".bias", {ne.back()});
    add(name + ".weight", std::move(ne));
  }
  void batch_norm(const std::string& name, int64_t n, bool has_weights = true) {
    if (has_weights) layer(name, {n});
    add(name + ".running_mean", {n});
    add(name + ".running_var", {n});
  }
};

// As RandomWeights, and kernels keep the variance of what they are applied to.
class RandomKernels {
 public:
  void operator()(const GgufTensor& t, uint8_t* data) {
    weights_(t, data);
    if (t.n_dims < 3) return;
    auto* values = reinterpret_cast<float*>(data);
    // Drawn for sums over one row; an output sums over a whole kernel.
    const int64_t rows = t.elements() / t.ne[0] / t.ne[static_cast<size_t>(t.n_dims) - 1];
    const float scale = 1.0F / std::sqrt(static_cast<float>(rows));
    std::for_each_n(values, t.elements(), [scale](float& v) { v *= scale; });
  }

 private:
  RandomWeights weights_;
};

}  // namespace

std::shared_ptr<const GgufFile> synthetic_speech_tokenizer() {
  constexpr int64_t kWidth = 1280;
  constexpr int64_t kFfn = 5120;
  Tensors t;
  t.builder.set("general.architecture", std::string("omni-speech-tokenizer"));
  t.layer("encoder.conv1", {3, 128, kWidth});
  t.layer("encoder.conv2", {3, kWidth, kWidth});
  for (int i = 0; i < 6; ++i) {
    const std::string block = str("encoder.blocks.", i, ".");
    t.layer(block + "attn_ln", {kWidth});
    t.layer(block + "attn.query", {kWidth, kWidth});
    t.add(block + "attn.key.weight", {kWidth, kWidth});
    t.layer(block + "attn.value", {kWidth, kWidth});
    t.add(block + "attn.fsmn_block.weight", {31, 1, kWidth});
    t.layer(block + "attn.out", {kWidth, kWidth});
    t.layer(block + "mlp_ln", {kWidth});
    t.layer(block + "mlp.0", {kWidth, kFfn});
    t.layer(block + "mlp.2", {kFfn, kWidth});
  }
  t.layer("quantizer._codebook.project_down", {kWidth, 8});
  return t.builder.build("random weights (speech tokenizer)", RandomKernels());
}

std::shared_ptr<const GgufFile> synthetic_speaker_encoder() {
  constexpr int64_t kHead = 32;
  constexpr int64_t kGrowth = 32;
  constexpr int64_t kMiddle = 128;
  constexpr int kLayers[] = {12, 24, 16};
  Tensors t;
  t.builder.set("general.architecture", std::string("omni-speaker-encoder"));
  t.layer("head.conv1", {3, 3, 1, kHead});
  for (int i = 0; i < 4; ++i) {
    const std::string place = str("head.layer", i / 2 + 1, ".", i % 2, ".");
    t.layer(place + "conv1", {3, 3, kHead, kHead});
    t.layer(place + "conv2", {3, 3, kHead, kHead});
    if (i % 2 == 0) t.layer(place + "shortcut.0", {1, 1, kHead, kHead});
  }
  t.layer("head.conv2", {3, 3, kHead, kHead});
  int64_t channels = kMiddle;
  t.layer("xvector.tdnn.linear", {5, 10 * kHead, channels});
  for (int b = 0; b < 3; ++b) {
    for (int i = 1; i <= kLayers[b]; ++i, channels += kGrowth) {
      const std::string place = str("xvector.block", b + 1, ".tdnnd", i, ".");
      t.batch_norm(place + "nonlinear1.batchnorm", channels);
      t.layer(place + "linear1", {1, channels, kMiddle});
      t.add(place + "cam_layer.linear_local.weight", {3, kMiddle, kGrowth});
      t.layer(place + "cam_layer.linear1", {1, kMiddle, kMiddle / 2});
      t.layer(place + "cam_layer.linear2", {1, kMiddle / 2, kGrowth});
    }
    const std::string transit = str("xvector.transit", b + 1, ".");
    t.batch_norm(transit + "nonlinear.batchnorm", channels);
    t.add(transit + "linear.weight", {1, channels, channels / 2});
    channels /= 2;
  }
  t.add("xvector.transit3.linear.bias", {channels});
  t.add("xvector.dense.linear.weight", {1, 2 * channels, 192});
  t.batch_norm("xvector.dense.nonlinear.batchnorm", 192, false);
  return t.builder.build("random weights (speaker encoder)", RandomKernels());
}

}  // namespace omni
