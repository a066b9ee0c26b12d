// token2wav/prompt_mel.cpp - magnitudes of windows of 80 ms every 20 ms.
#include "token2wav/prompt_mel.h"

#include "omni/error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <numbers>

#include "audio/fft.h"
#include "audio/mel_bank.h"

namespace omni {
namespace {

constexpr int kWindow = 1920;
constexpr int kFrequencies = kWindow / 2 + 1;
constexpr int kBands = 80;
constexpr double kTopHz = 8000.0;
constexpr double kPowerFloor = 1e-9;
constexpr double kMelFloor = 1e-5;

}  // namespace

std::vector<float> prompt_mel(std::span<const float> samples) {
  const auto length = static_cast<int64_t>(samples.size());
  require(length > kPromptPad, ErrorCode::invalid_argument, "a prompt mel needs more than ", kPromptPad,
          " samples, got ", length);
  const RealFft fft(kWindow);
  const MelBank bank(slaney_filters(kBands, kPromptRate, kWindow, kTopHz), kFrequencies);
  RealFft::Work work = fft.make_work();
  std::array<double, kWindow> window{};
  for (size_t i = 0; i < window.size(); ++i) {
    window[i] = 0.5 - 0.5 * std::cos(2.0 * std::numbers::pi * static_cast<double>(i) / kWindow);
  }
  std::array<double, kWindow> frame{};
  std::array<double, kFrequencies> spectrum{};
  const auto frames = static_cast<size_t>(length / kPromptHop);
  std::vector<float> out(frames * kBands);
  for (size_t t = 0; t < frames; ++t) {
    const int64_t start = static_cast<int64_t>(t) * kPromptHop - kPromptPad;
    for (size_t i = 0; i < window.size(); ++i) {
      int64_t at = std::abs(start + static_cast<int64_t>(i));
      if (at >= length) at = 2 * (length - 1) - at;
      frame[i] = window[i] * static_cast<double>(samples[static_cast<size_t>(at)]);
    }
    fft.power(frame, spectrum, work);
    for (double& v : spectrum) v = std::sqrt(v + kPowerFloor);
    for (int band = 0; band < kBands; ++band) {
      const double mel = bank.sum(band, spectrum);
      out[t * kBands + static_cast<size_t>(band)] = static_cast<float>(std::log(std::max(mel, kMelFloor)));
    }
  }
  return out;
}

}  // namespace omni
