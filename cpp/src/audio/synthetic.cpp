// audio/synthetic.cpp - random weights of any size, laid out as the official audio file is.
#include "audio/synthetic.h"

#include "omni/error.h"

#include "base/gguf_builder.h"
#include "base/random_weights.h"
#include "kernels/quantize.h"

namespace omni {
std::shared_ptr<const GgufFile> synthetic_audio_encoder(const SyntheticAudioEncoder& s) {
  const ggml_type type = weight_type(s.type);
  require(s.n_layers >= 1 && s.width >= 1 && s.n_heads >= 1 && s.embed_width >= 1,
          ErrorCode::invalid_argument, "all sizes must be at least 1");
  const int64_t block = ggml_blck_size(type);
  require(s.width % block == 0 && s.embed_width % block == 0, ErrorCode::invalid_argument, s.type,
          " needs widths that are multiples of ", block);
  // Rows of three weights hold no blocks, so quantised files have convolutions in F16.
  const ggml_type taps = block > 1 ? GGML_TYPE_F16 : type;
  const int64_t ffn = 4 * s.width;
  GgufBuilder b;
  b.set("general.architecture", std::string("whisper"));
  b.set("encoder_attention_heads", static_cast<uint32_t>(s.n_heads));
  b.set("encoder_ffn_dim", static_cast<uint32_t>(ffn));
  b.set("encoder_layers", static_cast<uint32_t>(s.n_layers));
  b.set("d_model", static_cast<uint32_t>(s.width));
  b.set("audio_pool_step", uint32_t{5});
  b.set("n_mel", static_cast<uint32_t>(kMelBins));
  b.set("n_fft", static_cast<uint32_t>(kSpectrumBins));
  b.set("filters", mel_filter_bank());
  const auto dense = [&](const std::string& name, int64_t in, int64_t out, bool bias = true) {
    b.tensor(name + ".weight", type, {in, out});
    if (bias) b.tensor(name + ".bias", GGML_TYPE_F32, {out});
  };
  const auto norm = [&](const std::string& name) {
    b.tensor(name + ".weight", GGML_TYPE_F32, {s.width});
    b.tensor(name + ".bias", GGML_TYPE_F32, {s.width});
  };
  for (int i = 1; i <= 2; ++i) {
    const std::string name = str("encoder.conv", i);
    b.tensor(name + ".weight", taps, {3, i == 1 ? int64_t{kMelBins} : s.width, s.width});
    b.tensor(name + ".bias", GGML_TYPE_F32, {1, s.width});
  }
  b.tensor("encoder.positional_embedding", GGML_TYPE_F32, {s.width, 1500});
  for (int64_t i = 0; i < s.n_layers; ++i) {
    const std::string block_name = str("encoder.blocks.", i, ".");
    norm(block_name + "attn_ln");
    dense(block_name + "attn.query", s.width, s.width);
    dense(block_name + "attn.key", s.width, s.width, false);
    dense(block_name + "attn.value", s.width, s.width);
    dense(block_name + "attn.out", s.width, s.width);
    norm(block_name + "mlp_ln");
    dense(block_name + "mlp.0", s.width, ffn);
    dense(block_name + "mlp.2", ffn, s.width);
  }
  norm("encoder.ln_post");
  dense("audio_projector.linear1", s.width, s.embed_width);
  dense("audio_projector.linear2", s.embed_width, s.embed_width);
  return b.build(str("random audio weights (", s.type, ")"), RandomWeights());
}

}  // namespace omni
