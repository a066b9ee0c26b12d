// vision/synthetic.cpp - random weights of any real size, laid out as the official vision file is.
#include "vision/synthetic.h"

#include "omni/error.h"

#include "base/gguf_builder.h"
#include "base/random_weights.h"
#include "kernels/quantize.h"

namespace omni {
namespace {

constexpr int64_t kPatch = 14;
constexpr int64_t kTableSide = 70;

}  // namespace

std::shared_ptr<const GgufFile> synthetic_vision_encoder(const SyntheticVisionEncoder& s) {
  const ggml_type type = weight_type(s.type);
  const int64_t block = ggml_blck_size(type);
  require(s.n_layers >= 1 && s.width >= 1 && s.ffn_width >= 1 && s.n_heads >= 1 && s.n_queries >= 1 &&
              s.embed_width >= 1,
          ErrorCode::invalid_argument, "all sizes must be at least 1");
  require(s.width % block == 0 && s.embed_width % block == 0, ErrorCode::invalid_argument, s.type,
          " needs widths that are multiples of ", block);
  GgufBuilder b;
  b.set("general.architecture", std::string("clip"));
  b.set("clip.vision.block_count", static_cast<uint32_t>(s.n_layers));
  b.set("clip.vision.embedding_length", static_cast<uint32_t>(s.width));
  b.set("clip.vision.feed_forward_length", static_cast<uint32_t>(s.ffn_width));
  b.set("clip.vision.attention.head_count", static_cast<uint32_t>(s.n_heads));
  b.set("clip.vision.attention.layer_norm_epsilon", 1e-6F);
  b.set("clip.vision.patch_size", static_cast<uint32_t>(kPatch));
  b.set("clip.vision.image_size", uint32_t{448});
  b.set("clip.vision.image_mean", std::vector<float>(3, 0.5F));
  b.set("clip.vision.image_std", std::vector<float>(3, 0.5F));

  const auto vector = [&](const std::string& name, int64_t n) { b.tensor(name, GGML_TYPE_F32, {n}); };
  const auto matrix = [&](const std::string& name, int64_t in, int64_t out) {
    // Rows that are no whole blocks stay as the official file holds them.
    b.tensor(name + ".weight", in % block == 0 ? type : GGML_TYPE_F16, {in, out});
  };
  const auto dense = [&](const std::string& name, int64_t in, int64_t out) {
    matrix(name, in, out);
    vector(name + ".bias", out);
  };
  const auto norm = [&](const std::string& name, int64_t n) {
    vector(name + ".weight", n);
    vector(name + ".bias", n);
  };
  b.tensor("resampler.query", GGML_TYPE_F32, {s.embed_width, s.n_queries});
  matrix("resampler.proj", s.embed_width, s.embed_width);
  matrix("resampler.kv", s.width, s.embed_width);
  for (const char* name : {"q", "k", "v", "out"}) {
    dense(str("resampler.attn.", name), s.embed_width, s.embed_width);
  }
  for (const char* name : {"ln_q", "ln_kv", "ln_post"}) norm(str("resampler.", name), s.embed_width);
  b.tensor("v.patch_embd.weight", GGML_TYPE_F16, {kPatch, kPatch, 3, s.width});
  vector("v.patch_embd.bias", s.width);
  b.tensor("v.position_embd.weight", GGML_TYPE_F16, {s.width, kTableSide * kTableSide});
  for (int64_t i = 0; i < s.n_layers; ++i) {
    const std::string blk = str("v.blk.", i, ".");
    norm(blk + "ln1", s.width);
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_out"}) dense(blk + name, s.width, s.width);
    norm(blk + "ln2", s.width);
    // Crossed names, as in the official file.
    dense(blk + "ffn_down", s.width, s.ffn_width);
    dense(blk + "ffn_up", s.ffn_width, s.width);
  }
  norm("v.post_ln", s.width);
  return b.build(str("random weights (", s.type, ")"), RandomWeights());
}

}  // namespace omni
