// llm/synthetic.cpp - random weights of any real size, laid out as the official files are.
#include "llm/synthetic.h"

#include "omni/error.h"

#include "base/gguf_builder.h"
#include "base/random_weights.h"

namespace omni {
namespace {

// Types of a quantisation mix: what most matrices, the better-kept ones and the output have.
struct Mix {
  ggml_type usual;
  ggml_type better;
  ggml_type output;
};

Mix mix_of(const std::string& name) {
  struct Named {
    const char* name;
    Mix mix;
  };
  static constexpr Named kMixes[] = {
      {"F32", {GGML_TYPE_F32, GGML_TYPE_F32, GGML_TYPE_F32}},
      {"F16", {GGML_TYPE_F16, GGML_TYPE_F16, GGML_TYPE_F16}},
      {"BF16", {GGML_TYPE_BF16, GGML_TYPE_BF16, GGML_TYPE_BF16}},
      {"Q8_0", {GGML_TYPE_Q8_0, GGML_TYPE_Q8_0, GGML_TYPE_Q8_0}},
      {"Q6_K", {GGML_TYPE_Q6_K, GGML_TYPE_Q6_K, GGML_TYPE_Q6_K}},
      {"Q5_K_M", {GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_Q6_K}},
      {"Q5_K_S", {GGML_TYPE_Q5_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K}},
      {"Q5_1", {GGML_TYPE_Q5_1, GGML_TYPE_Q5_1, GGML_TYPE_Q6_K}},
      {"Q5_0", {GGML_TYPE_Q5_0, GGML_TYPE_Q5_0, GGML_TYPE_Q6_K}},
      {"Q4_K_M", {GGML_TYPE_Q4_K, GGML_TYPE_Q6_K, GGML_TYPE_Q6_K}},
      {"Q4_1", {GGML_TYPE_Q4_1, GGML_TYPE_Q4_1, GGML_TYPE_Q6_K}},
      {"Q4_0", {GGML_TYPE_Q4_0, GGML_TYPE_Q4_0, GGML_TYPE_Q6_K}},
  };
  for (const Named& named : kMixes) {
    if (name == named.name) return named.mix;
  }
  fail(ErrorCode::invalid_argument, "quantisation '", name,
       "' is not one that random weights can be made in");
}

// Layers whose attn_v and ffn_down keep more bits in the _M mixes: the outer eighths and every third between.
bool keeps_more_bits(int64_t layer, int64_t n_layers) {
  const int64_t eighth = n_layers / 8;
  return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

}  // namespace

std::shared_ptr<const GgufFile> synthetic_language_model(const SyntheticLanguageModel& s) {
  const Mix mix = mix_of(s.type);
  const int64_t block = ggml_blck_size(mix.usual);
  require(s.n_layers >= 1 && s.width >= 1 && s.n_vocab >= 1 && s.n_heads >= 1 && s.n_kv_heads >= 1 &&
              s.head_dim >= 1 && s.ffn_width >= 1,
          ErrorCode::invalid_argument, "all sizes must be at least 1");
  require(s.width % block == 0 && s.ffn_width % block == 0 && (s.n_heads * s.head_dim) % block == 0,
          ErrorCode::invalid_argument, s.type, " needs widths that are multiples of ", block);
  GgufBuilder b;
  b.set("general.architecture", std::string("qwen3"));
  b.set("qwen3.block_count", static_cast<uint32_t>(s.n_layers));
  b.set("qwen3.context_length", uint32_t{40960});
  b.set("qwen3.embedding_length", static_cast<uint32_t>(s.width));
  b.set("qwen3.feed_forward_length", static_cast<uint32_t>(s.ffn_width));
  b.set("qwen3.attention.head_count", static_cast<uint32_t>(s.n_heads));
  b.set("qwen3.attention.head_count_kv", static_cast<uint32_t>(s.n_kv_heads));
  b.set("qwen3.attention.key_length", static_cast<uint32_t>(s.head_dim));
  b.set("qwen3.attention.layer_norm_rms_epsilon", 1e-6F);
  b.set("qwen3.rope.freq_base", 1e6F);
  b.tensor("token_embd.weight", mix.usual, {s.width, s.n_vocab});
  b.tensor("output_norm.weight", GGML_TYPE_F32, {s.width});
  b.tensor("output.weight", mix.output, {s.width, s.n_vocab});
  for (int64_t i = 0; i < s.n_layers; ++i) {
    const std::string blk = str("blk.", i, ".");
    const ggml_type kept = keeps_more_bits(i, s.n_layers) ? mix.better : mix.usual;
    b.tensor(blk + "attn_norm.weight", GGML_TYPE_F32, {s.width});
    b.tensor(blk + "attn_q.weight", mix.usual, {s.width, s.n_heads * s.head_dim});
    b.tensor(blk + "attn_k.weight", mix.usual, {s.width, s.n_kv_heads * s.head_dim});
    b.tensor(blk + "attn_v.weight", kept, {s.width, s.n_kv_heads * s.head_dim});
    b.tensor(blk + "attn_output.weight", mix.usual, {s.n_heads * s.head_dim, s.width});
    b.tensor(blk + "attn_q_norm.weight", GGML_TYPE_F32, {s.head_dim});
    b.tensor(blk + "attn_k_norm.weight", GGML_TYPE_F32, {s.head_dim});
    b.tensor(blk + "ffn_norm.weight", GGML_TYPE_F32, {s.width});
    b.tensor(blk + "ffn_gate.weight", mix.usual, {s.width, s.ffn_width});
    b.tensor(blk + "ffn_up.weight", mix.usual, {s.width, s.ffn_width});
    b.tensor(blk + "ffn_down.weight", kept, {s.ffn_width, s.width});
  }
  return b.build(str("random weights (", s.type, ")"), RandomWeights());
}

}  // namespace omni
