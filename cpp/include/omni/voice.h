// A voice: what token2wav needs to know of a speaker, computed once from a recording.
#pragma once

#include "omni/export.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace omni {

class GgufFile;

// Speech tokens, speaker vector and mel spectrogram of a reference recording. Independent of the number of
// flow steps and of the vocoder; a few hundred kilobytes.
//
// The official prompt_cache.gguf loads as a voice too, but holds finished caches instead of a recording:
// `tokens` and `mel` are empty then, and it works with `cache_steps` flow steps and no other number.
struct OMNI_API Voice {
  static constexpr int64_t kEmbeddingSize = 192;
  static constexpr int64_t kMelBins = 80;
  static constexpr int64_t kFramesPerToken = 2;  // 50 mel frames and 25 tokens a second

  std::vector<int32_t> tokens;   // [n] S3 speech tokens, 25 a second
  std::vector<float> embedding;  // [192] CAM++ speaker vector, not normalised
  std::vector<float> mel;        // [2n, 80] natural log, frame after frame, 50 a second

  std::shared_ptr<const GgufFile> cache;  // the prompt cache file, null for voices from recordings
  int cache_steps = 0;                    // flow steps that it was made for

  // Mel frames of the reference: 2n, or those of the cache.
  int64_t frames() const;

  // Throws Error(invalid_argument) unless the sizes fit together, there are at least 3 tokens, and all values
  // are finite and in range.
  void check() const;

  // Writes a small GGUF file. Throws Error(file); Error(unsupported) for a voice that is a prompt cache.
  void save(const std::string& path) const;
  // Reads what save() wrote, or an official prompt_cache.gguf. Throws Error(file | format).
  static Voice load(const std::string& path);
};

}  // namespace omni
