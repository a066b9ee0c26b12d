// speech/synthetic.cpp - random weights of any real size, laid out as the official file is.
#include "speech/synthetic.h"

#include "omni/error.h"

#include "base/gguf_builder.h"
#include "base/random_weights.h"
#include "kernels/quantize.h"

namespace omni {

std::shared_ptr<const GgufFile> synthetic_speech_model(const SyntheticSpeechModel& s) {
  const ggml_type type = weight_type(s.type);
  const int64_t block = ggml_blck_size(type);
  constexpr int64_t kMost = 1 << 20;
  require(s.n_layers >= 1 && s.n_layers <= 1024, ErrorCode::invalid_argument, "a model of ", s.n_layers,
          " layers; make 1 to 1024");
  for (const int64_t size : {s.width, s.llm_width, s.n_heads, s.ffn_width, s.n_codes, s.n_text}) {
    require(size >= 2 && size <= kMost, ErrorCode::invalid_argument, "a model with a size of ", size,
            "; make 2 to ", kMost);
  }
  require(s.width % s.n_heads == 0 && s.width % block == 0 && s.ffn_width % block == 0,
          ErrorCode::invalid_argument, "a width of ", s.width, " doesn't fit ", s.n_heads, " heads or ",
          s.type);
  GgufBuilder b;
  b.set("general.architecture", std::string("llama"));
  b.set("llama.block_count", static_cast<uint32_t>(s.n_layers));
  b.set("llama.context_length", uint32_t{4096});
  b.set("llama.embedding_length", static_cast<uint32_t>(s.width));
  b.set("llama.feed_forward_length", static_cast<uint32_t>(s.ffn_width));
  b.set("llama.attention.head_count", static_cast<uint32_t>(s.n_heads));
  b.set("llama.attention.head_count_kv", static_cast<uint32_t>(s.n_heads));
  b.set("llama.attention.layer_norm_rms_epsilon", 1e-6F);
  b.set("llama.rope.freq_base", 1e4F);
  b.set("omni.audio_bos_token_id", static_cast<uint32_t>(s.n_text - 1));
  b.set("omni.text_eos_token_id", static_cast<uint32_t>(s.n_text - 2));
  b.tensor("output_norm.weight", GGML_TYPE_F32, {s.width});
  b.tensor("emb_text.weight", GGML_TYPE_F32, {s.width, s.n_text});
  b.tensor("emb_code.0.weight", GGML_TYPE_F32, {s.width, s.n_codes});
  b.tensor("head_code.0.weight", GGML_TYPE_F32, {s.n_codes, s.width});
  b.tensor("projector_semantic.linear1.weight", GGML_TYPE_F32, {s.llm_width, s.width});
  b.tensor("projector_semantic.linear1.bias", GGML_TYPE_F32, {s.width});
  b.tensor("projector_semantic.linear2.weight", GGML_TYPE_F32, {s.width, s.width});
  b.tensor("projector_semantic.linear2.bias", GGML_TYPE_F32, {s.width});
  for (int64_t i = 0; i < s.n_layers; ++i) {
    const std::string blk = str("blk.", i, ".");
    b.tensor(blk + "attn_norm.weight", GGML_TYPE_F32, {s.width});
    b.tensor(blk + "ffn_norm.weight", GGML_TYPE_F32, {s.width});
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      b.tensor(blk + name + ".weight", type, {s.width, s.width});
    }
    b.tensor(blk + "ffn_gate.weight", type, {s.width, s.ffn_width});
    b.tensor(blk + "ffn_up.weight", type, {s.width, s.ffn_width});
    b.tensor(blk + "ffn_down.weight", type, {s.ffn_width, s.width});
  }
  return b.build(str("random weights (speech model, ", s.type, ")"), RandomWeights());
}

}  // namespace omni
