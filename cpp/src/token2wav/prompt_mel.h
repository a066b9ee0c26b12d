// token2wav/prompt_mel.h - the mel spectrogram that the flow sees of a reference recording.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace omni {

inline constexpr int kPromptRate = 24000;  // samples a second
inline constexpr int kPromptHop = 480;     // samples a frame: 50 frames a second
inline constexpr int kPromptPad = 720;     // samples reflected at both ends

// Natural log of 80 Slaney bands up to 8 kHz: [80, samples / 480] for mono sound at 24 kHz. Throws
// Error(invalid_argument) if there are too few samples to reflect.
std::vector<float> prompt_mel(std::span<const float> samples);

}  // namespace omni
