// audio/log_mel.h - single columns of the log-mel transform, under LogMel and MelStream.
#pragma once

#include "omni/audio.h"

#include <array>

#include "audio/fft.h"
#include "audio/mel_bank.h"

namespace omni {

inline constexpr float kLogFloor = -10.0F;    // log10 of the smallest power that counts
inline constexpr float kDynamicRange = 8.0F;  // log10 units kept below the maximum in dynamic mode

struct LogMel::Impl {
  explicit Impl(std::span<const float> filters);

  struct Work {
    std::array<double, kMelWindow> windowed;
    std::array<double, kSpectrumBins> power;
    RealFft::Work fft;
  };
  Work make_work() const { return {.windowed = {}, .power = {}, .fft = fft.make_work()}; }

  // log10 mel power of frame `t`, floored at -10: `bins` values into `out`. Returns the largest. The signal
  // is `samples`, then zeros up to `length` samples, reflected around its first and last sample.
  float column(std::span<const float> samples, int64_t length, int64_t t, float* out, Work& work) const;

  size_t n_bands() const { return static_cast<size_t>(bank.bands()); }

  RealFft fft;
  std::array<double, kMelWindow> window;
  MelBank bank;
};

// What the encoder sees of a log10 power.
inline float normalised(float log_power, float floor) {
  return (std::max(log_power, floor) + 4.0F) / 4.0F;
}

}  // namespace omni
