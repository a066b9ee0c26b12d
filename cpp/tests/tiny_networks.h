// tests/tiny_networks.h - all networks of a duplex session, small and random.
#pragma once

#include "omni/duplex_networks.h"

#include <cmath>
#include <memory>

#include "duplex_vocabulary.h"

namespace omni::duplex_test {

constexpr int64_t kTinyWidth = 128;  // of embeddings and hidden states

inline std::shared_ptr<const Voice> tiny_voice() {
  auto voice = std::make_shared<Voice>();
  for (int i = 0; i < 12; ++i) voice->tokens.push_back(500 * i);
  for (int i = 0; i < Voice::kEmbeddingSize; ++i) voice->embedding.push_back(std::sin(static_cast<float>(i)));
  voice->mel.assign(voice->tokens.size() * Voice::kFramesPerToken * Voice::kMelBins, -4.0F);
  return voice;
}

inline std::shared_ptr<Token2Wav> tiny_token2wav(const char* vocoder = "auto") {
  const SyntheticToken2Wav sizes{.width = 64,
                                 .head_dim = 32,
                                 .ffn_width = 64,
                                 .n_layers = 1,
                                 .n_up_layers = 1,
                                 .n_blocks = 1,
                                 .channels = 16};
  return Token2Wav::synthetic(sizes, {.vocoder = vocoder, .device = {.n_threads = 1}});
}

inline DuplexNetworks tiny_networks() {
  const DeviceOptions device{.n_threads = 1};
  DuplexNetworks n;
  n.tokenizer = std::make_shared<const Tokenizer>(tokenizer());
  n.language_model =
      LanguageModel::synthetic({.type = "F32",
                                .n_layers = 1,
                                .width = kTinyWidth,
                                .n_vocab = n.tokenizer->size(),
                                .n_heads = 2,
                                .n_kv_heads = 1,
                                .head_dim = 32,
                                .ffn_width = 64},
                               {.n_ctx = 512, .kv_type = "f32", .weight_format = "stored", .device = device});
  n.audio = AudioEncoder::synthetic(
      {.type = "F32", .n_layers = 1, .width = 32, .n_heads = 2, .embed_width = kTinyWidth},
      {.weight_format = "stored", .kv_type = "f32", .device = device});
  n.vision = VisionEncoder::synthetic(
      {.type = "F32", .n_layers = 1, .width = 32, .ffn_width = 32, .n_heads = 2, .embed_width = kTinyWidth},
      {.weight_format = "stored", .device = device});
  n.speech = SpeechModel::synthetic({.type = "F32",
                                     .n_layers = 1,
                                     .width = 64,
                                     .llm_width = kTinyWidth,
                                     .n_heads = 2,
                                     .ffn_width = 64,
                                     .n_text = n.tokenizer->size()},
                                    {.n_ctx = 256, .device = device});
  n.token2wav = tiny_token2wav();
  n.voice = tiny_voice();
  return n;
}

}  // namespace omni::duplex_test
