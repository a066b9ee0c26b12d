// From a recording to a voice: speech tokens, speaker vector and mel spectrogram.
#pragma once

#include "omni/devices.h"
#include "omni/export.h"
#include "omni/voice.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace omni {

// What a recording may be. 5 to 15 s of clean speech at 16 kHz or more make a good voice.
inline constexpr double kMinVoiceSeconds = 0.12;  // 3 tokens, the fewest that the flow can start from
inline constexpr double kMaxVoiceSeconds = 30.0;  // what the speech tokenizer sees at once; more is cut
inline constexpr int kMinVoiceRate = 8000;        // samples a second
inline constexpr int kMaxVoiceRate = 192000;

struct VoiceEncoderOptions {
  std::string weight_format = "stored";  // of the speech tokenizer: "stored", "bf16" or "q8_0"
  bool repack = true;                    // let quantised weights be copied into a faster layout
  // Divide the last, partial block of 2 s in the speaker encoder by a whole block's length. That is what ONNX
  // Runtime 1.21 to 1.23 compute; the network was defined (and other versions divide) by its own length.
  bool whole_tail_block = false;
  DeviceOptions device;
};

// Results on the way to a voice, for tests and tools.
struct VoiceStages {
  std::vector<float> token_mel;  // [128, frames] log-mel of the speech tokenizer, 100 frames a second
  std::vector<float> codes;      // [8, tokens] before they are quantised
  std::vector<float> features;   // [80, frames] centred filter bank of the speaker encoder
  std::vector<float> wave24k;    // [n] mono sound under the voice's mel
};

// The S3 speech tokenizer (version 2, 25 tokens a second) and the CAM++ speaker encoder. Loaded once; voices
// are computed one at a time, from any thread.
class OMNI_API VoiceEncoder {
 public:
  // Throws Error(file | format | unsupported).
  static std::shared_ptr<VoiceEncoder> open(const std::string& tokenizer_path,
                                            const std::string& speaker_path,
                                            const VoiceEncoderOptions& options = {});
  // The published sizes with random weights: for measuring speed.
  static std::shared_ptr<VoiceEncoder> synthetic(const VoiceEncoderOptions& options = {});
  ~VoiceEncoder();

  // The voice in `samples`, [channels, n] in [-1, 1] at `rate` samples a second. Tokens and speaker vector
  // come from the first channel, the mel from the mean of all, as in the reference. Of a recording over 30 s
  // (from 17 s on, the reference can't stream) the 15 s with the least silence are used; the log says which.
  // Throws Error(invalid_argument) if there is nothing to take a voice from: too short, silent, not finite.
  Voice encode(std::span<const float> samples, int channels, int rate, VoiceStages* stages = nullptr);

 private:
  struct Impl;
  explicit VoiceEncoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
