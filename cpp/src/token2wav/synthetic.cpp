// token2wav/synthetic.cpp - the published layout, filled with random numbers.
#include "token2wav/synthetic.h"

#include "omni/error.h"

#include <string>

#include "base/gguf_builder.h"
#include "base/random_weights.h"

namespace omni {
namespace {

using Sizes = SyntheticToken2Wav;

class Layout {
 public:
  void tensor(const std::string& name, std::vector<int64_t> ne) {
    builder_.tensor(name, GGML_TYPE_F32, std::move(ne));
  }
  void norm(const std::string& name, int64_t size) {
    tensor(name + ".weight", {size});
    tensor(name + ".bias", {size});
  }
  // Linear layers and convolutions: `ne` of the weight, and the length of the bias.
  void weight(const std::string& name, std::vector<int64_t> ne, int64_t out) {
    tensor(name + ".weight", std::move(ne));
    tensor(name + ".bias", {out});
  }
  std::shared_ptr<const GgufFile> build(const std::string& name) const {
    return builder_.build(name, RandomWeights());
  }

 private:
  GgufBuilder builder_;
};

void conformer_layer(Layout& l, const Sizes& s, const std::string& name) {
  l.norm(name + "norm_mha", s.width);
  l.norm(name + "norm_ff", s.width);
  for (const char* part : {"q", "k", "v", "out"}) {
    l.weight(name + "self_attn.linear_" + part, {s.width, s.width}, s.width);
  }
  l.tensor(name + "self_attn.linear_pos.weight", {s.width, s.width});
  l.tensor(name + "self_attn.pos_bias_u", {s.head_dim, s.width / s.head_dim});
  l.tensor(name + "self_attn.pos_bias_v", {s.head_dim, s.width / s.head_dim});
  l.weight(name + "feed_forward.w_1", {s.width, s.ffn_width}, s.ffn_width);
  l.weight(name + "feed_forward.w_2", {s.ffn_width, s.width}, s.width);
}

std::shared_ptr<const GgufFile> encoder(const Sizes& s) {
  Layout l;
  for (const char* name : {"embed.out", "up_embed.out"}) {
    l.weight(std::string(name) + ".0", {s.width, s.width}, s.width);
    l.norm(std::string(name) + ".1", s.width);
  }
  l.weight("pre_lookahead_layer.conv1", {4, s.width, s.width}, s.width);
  l.weight("pre_lookahead_layer.conv2", {3, s.width, s.width}, s.width);
  l.weight("up_layer.conv", {5, s.width, s.width}, s.width);
  for (int i = 0; i < s.n_layers; ++i) conformer_layer(l, s, str("encoders.", i, "."));
  for (int i = 0; i < s.n_up_layers; ++i) conformer_layer(l, s, str("up_encoders.", i, "."));
  l.norm("after_norm", s.width);
  return l.build("random flow encoder");
}

std::shared_ptr<const GgufFile> estimator(const Sizes& s) {
  Layout l;
  l.weight("estimator.t_embedder.mlp.0", {256, s.width}, s.width);
  l.weight("estimator.t_embedder.mlp.2", {s.width, s.width}, s.width);
  l.weight("estimator.in_proj", {320, s.width}, s.width);
  for (int i = 0; i < s.n_blocks; ++i) {
    const std::string name = str("estimator.blocks.", i, ".");
    l.weight(name + "adaLN_modulation.1", {s.width, 9 * s.width}, 9 * s.width);
    for (const char* part : {"to_q", "to_k", "to_v", "proj"}) {
      l.weight(name + "attn." + part, {s.width, s.width}, s.width);
    }
    l.norm(name + "attn.q_norm", s.head_dim);
    l.norm(name + "attn.k_norm", s.head_dim);
    l.weight(name + "conv.block.1", {3, s.width, s.width}, s.width);
    l.norm(name + "conv.block.3", s.width);
    l.weight(name + "conv.block.6", {3, s.width, s.width}, s.width);
    l.weight(name + "mlp.fc1", {s.width, s.ffn_width}, s.ffn_width);
    l.weight(name + "mlp.fc2", {s.ffn_width, s.width}, s.width);
  }
  l.weight("estimator.final_layer.adaLN_modulation.1", {s.width, 2 * s.width}, 2 * s.width);
  l.weight("estimator.final_layer.linear", {s.width, 80}, 80);
  return l.build("random flow estimator");
}

std::shared_ptr<const GgufFile> extra(const Sizes& s) {
  Layout l;
  l.tensor("input_embedding.weight", {s.width, 6561});
  l.weight("spk_embed_affine_layer", {192, 80}, 80);
  l.weight("encoder_proj", {s.width, 80}, 80);
  return l.build("random flow tables");
}

void res_block(Layout& l, const std::string& name, int64_t channels, int64_t kernel) {
  for (int d = 0; d < 3; ++d) {
    for (int part = 1; part <= 2; ++part) {
      l.weight(str(name, ".convs", part, ".", d), {kernel, channels, channels}, channels);
      l.tensor(str(name, ".activations", part, ".", d, ".alpha"), {channels});
    }
  }
}

}  // namespace

FlowFiles synthetic_flow(const Sizes& s) {
  require(s.head_dim >= 1 && s.width >= s.head_dim && s.width % s.head_dim == 0 && s.ffn_width >= 1 &&
              s.n_layers >= 1 && s.n_up_layers >= 1 && s.n_blocks >= 1,
          ErrorCode::invalid_argument, "all sizes must be at least 1, and width a multiple of head_dim");
  return {encoder(s), estimator(s), extra(s)};
}

std::shared_ptr<const GgufFile> synthetic_vocoder(const Sizes& s, bool causal) {
  require(s.channels >= 8 && s.channels % 8 == 0, ErrorCode::invalid_argument,
          "channels must be a multiple of 8, not ", s.channels);
  constexpr int64_t kKernels[] = {3, 7, 11};
  constexpr int64_t kUpKernels[] = {16, 11, 7};
  constexpr int64_t kDownKernels[] = {30, 6, 1};
  constexpr int64_t kSourceKernels[] = {7, 7, 11};
  Layout l;
  for (int i = 0; i < 5; ++i) {
    l.weight(str("f0_predictor.condnet.", 2 * i),
             {i == 0 && causal ? 4 : 3, i == 0 ? 80 : s.channels, s.channels}, s.channels);
  }
  l.weight("f0_predictor.classifier", {s.channels, 1}, 1);
  l.weight("m_source.l_linear", {9, 1}, 1);
  l.weight("conv_pre", {causal ? 5 : 7, 80, s.channels}, s.channels);
  int64_t in = s.channels;
  for (int i = 0; i < 3; ++i) {
    const int64_t out = in / 2;
    const int64_t k = kUpKernels[i];
    l.weight(str("ups.", i), causal ? std::vector<int64_t>{k, in, out} : std::vector<int64_t>{k, out, in},
             out);
    l.weight(str("source_downs.", i), {kDownKernels[i], 18, out}, out);
    res_block(l, str("source_resblocks.", i), out, kSourceKernels[i]);
    for (int j = 0; j < 3; ++j) res_block(l, str("resblocks.", 3 * i + j), out, kKernels[j]);
    in = out;
  }
  l.weight("conv_post", {7, in, 18}, 18);
  return l.build(causal ? "random causal vocoder" : "random vocoder");
}

}  // namespace omni
