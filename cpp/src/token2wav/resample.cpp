// token2wav/resample.cpp - a polyphase filter whose phases keep their non-zero taps only.
#include "token2wav/resample.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <numeric>

namespace omni {
namespace {

constexpr double kZeroCrossings = 6;
constexpr double kRolloff = 0.99;

// One output phase: its taps start `first` samples after the block of input that it belongs to.
struct Phase {
  int64_t first = 0;
  std::vector<float> taps;
};

// Phase j of w interpolates between the samples of blocks of o.
Phase make_phase(int64_t j, int64_t o, int64_t w) {
  const double base = static_cast<double>(std::min(o, w)) * kRolloff;
  const auto width = static_cast<int64_t>(std::ceil(kZeroCrossings * static_cast<double>(o) / base));
  // The reference rounds this term to float32.
  const double shift = static_cast<float>(-static_cast<double>(j) / static_cast<double>(w));
  Phase phase;
  for (int64_t i = -width; i < width + o; ++i) {
    const double t = (shift + static_cast<double>(i) / static_cast<double>(o)) * base;
    if (std::abs(t) >= kZeroCrossings) {
      if (!phase.taps.empty()) break;
      continue;
    }
    if (phase.taps.empty()) phase.first = i;
    const double window = std::cos(t * std::numbers::pi / kZeroCrossings / 2);
    const double angle = t * std::numbers::pi;
    const double sinc = t == 0 ? 1.0 : std::sin(angle) / angle;
    phase.taps.push_back(static_cast<float>(sinc * window * window * base / static_cast<double>(o)));
  }
  return phase;
}

}  // namespace

std::vector<float> sinc_resample(std::span<const float> samples, int from, int to) {
  require(from > 0 && to > 0, ErrorCode::invalid_argument, "can't resample from ", from, " to ", to,
          " samples a second");
  if (from == to) return {samples.begin(), samples.end()};
  const int64_t divisor = std::gcd(from, to);
  const int64_t o = from / divisor;
  const int64_t w = to / divisor;
  const auto n = static_cast<int64_t>(samples.size());
  const int64_t count = (w * n + o - 1) / o;
  std::vector<float> out(static_cast<size_t>(count));
  for (int64_t j = 0; j < std::min(w, count); ++j) {
    const Phase phase = make_phase(j, o, w);
    const auto taps = static_cast<int64_t>(phase.taps.size());
    for (int64_t block = 0; block * w + j < count; ++block) {
      const int64_t start = block * o + phase.first;
      double sum = 0;
      for (int64_t i = std::max<int64_t>(0, -start); i < std::min(taps, n - start); ++i) {
        sum += static_cast<double>(phase.taps[static_cast<size_t>(i)]) *
               static_cast<double>(samples[static_cast<size_t>(start + i)]);
      }
      out[static_cast<size_t>(block * w + j)] = static_cast<float>(sum);
    }
  }
  return out;
}

}  // namespace omni
