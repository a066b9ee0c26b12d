// token2wav/fbank.h - filter bank features as Kaldi computes them, for the speaker encoder.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace omni {

inline constexpr int kFbankWindow = 400;  // samples of 16 kHz: 25 ms
inline constexpr int kFbankHop = 160;     // 10 ms

// Whole windows that fit.
inline int64_t fbank_frames(int64_t samples) {
  return samples < kFbankWindow ? 0 : (samples - kFbankWindow) / kFbankHop + 1;
}

// Log energies of 80 bands, minus each band's mean over the clip: [80, frames]. `samples` at 16 kHz in
// [-1, 1]. No dither. Throws Error(invalid_argument) if no window fits.
std::vector<float> centred_fbank(std::span<const float> samples);

}  // namespace omni
