// audio/log_mel.h - single columns of the log-mel transform, under LogMel and MelStream.
#pragma once

#include "omni/audio.h"

#include <array>

#include "audio/fft.h"

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

  // A filter's weights are zero but for a short run of frequencies.
  struct Band {
    int first = 0;
    int count = 0;
    size_t offset = 0;  // into weights
  };
  RealFft fft;
  std::array<double, kMelWindow> window;
  std::vector<Band> bands;
  std::vector<double> weights;
};

// What the encoder sees of a log10 power.
inline float normalised(float log_power, float floor) {
  return (std::max(log_power, floor) + 4.0F) / 4.0F;
}

}  // namespace omni
