// token2wav/best_stretch.cpp - by the loudness of tenths of a second.
#include "token2wav/best_stretch.h"

#include <algorithm>
#include <vector>

namespace omni {
namespace {

constexpr int kBlocksPerSecond = 10;
// A block counts as sound if its power is within 20 dB of loud blocks', which one in twenty reaches.
constexpr double kLoudShare = 0.95;
constexpr double kQuiet = 0.01;

}  // namespace

Stretch best_stretch(std::span<const float> samples, int rate, double seconds) {
  const auto size = static_cast<size_t>(rate / kBlocksPerSecond);
  const size_t n_blocks = samples.size() / size;
  const size_t wanted = std::min(static_cast<size_t>(seconds * kBlocksPerSecond), n_blocks);
  std::vector<double> power(n_blocks);
  for (size_t i = 0; i < n_blocks; ++i) {
    for (const float x : samples.subspan(i * size, size)) power[i] += static_cast<double>(x) * x;
  }
  std::vector<double> sorted = power;
  const auto loud = sorted.begin() + static_cast<std::ptrdiff_t>(kLoudShare * static_cast<double>(n_blocks));
  std::nth_element(sorted.begin(), loud, sorted.end());
  const double least = kQuiet * *loud;
  const auto sounds = [&](size_t block) { return power[block] >= least ? 1 : 0; };

  int count = 0;
  for (size_t i = 0; i < wanted; ++i) count += sounds(i);
  int most = count;
  size_t best = 0;
  for (size_t i = wanted; i < n_blocks; ++i) {
    count += sounds(i) - sounds(i - wanted);
    if (count > most) {
      most = count;
      best = i + 1 - wanted;
    }
  }
  while (most > 0 && sounds(best) == 0) ++best;
  const size_t end = std::min(best + wanted, n_blocks);
  const auto last = power.begin() + static_cast<std::ptrdiff_t>(end);
  const auto quietest = std::min_element(last - static_cast<std::ptrdiff_t>(wanted / 5), last);
  return {best * size, (static_cast<size_t>(quietest - power.begin()) - best) * size};
}

}  // namespace omni
