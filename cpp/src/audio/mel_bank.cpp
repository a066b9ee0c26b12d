// audio/mel_bank.cpp - Slaney's triangles, and sums under triangles.
#include "audio/mel_bank.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>

namespace omni {
namespace {

// Slaney's mel scale: linear below 1000 Hz, logarithmic above.
constexpr double kBreakHz = 1000.0;
constexpr double kBreakMel = 15.0;
const double kLogStep = std::log(6.4) / 27.0;

double hz_to_mel(double hz) {
  return hz < kBreakHz ? hz * kBreakMel / kBreakHz : kBreakMel + std::log(hz / kBreakHz) / kLogStep;
}

double mel_to_hz(double mel) {
  return mel < kBreakMel ? mel * kBreakHz / kBreakMel : kBreakHz * std::exp((mel - kBreakMel) * kLogStep);
}

}  // namespace

std::vector<float> slaney_filters(int bands, int rate, int length, double top_hz) {
  require(bands > 0 && bands <= 1000, ErrorCode::invalid_argument, "a filter bank has 1 to 1000 bands, not ",
          bands);
  const auto corner = [&](int i) { return mel_to_hz(hz_to_mel(top_hz) * i / (bands + 1)); };
  const double bin_hz = static_cast<double>(rate) / length;
  const int frequencies = length / 2 + 1;
  std::vector<float> filters;
  filters.reserve(static_cast<size_t>(bands) * static_cast<size_t>(frequencies));
  for (int m = 0; m < bands; ++m) {
    const double low = corner(m);
    const double centre = corner(m + 1);
    const double high = corner(m + 2);
    for (int k = 0; k < frequencies; ++k) {
      const double hz = bin_hz * k;
      const double triangle = std::min((hz - low) / (centre - low), (high - hz) / (high - centre));
      filters.push_back(static_cast<float>(std::max(0.0, triangle) * 2.0 / (high - low)));
    }
  }
  return filters;
}

MelBank::MelBank(std::span<const float> filters, int frequencies) {
  const auto width = static_cast<size_t>(frequencies);
  require(!filters.empty() && filters.size() % width == 0 && filters.size() / width <= 1000,
          ErrorCode::format, "a mel filter bank is 1 to 1000 rows of ", width, " weights, got ",
          filters.size(), " weights in all");
  for (size_t row = 0; row < filters.size() / width; ++row) {
    const auto band = filters.subspan(row * width, width);
    require(std::all_of(band.begin(), band.end(), [](float w) { return std::isfinite(w) && w >= 0; }),
            ErrorCode::format, "row ", row,
            " of the mel filter bank holds a weight that is negative or not finite");
    const auto used = [](float w) { return w != 0; };
    const auto first = std::find_if(band.begin(), band.end(), used);
    const auto last = std::find_if(band.rbegin(), band.rend(), used).base();
    bands_.push_back({.first = static_cast<int>(first - band.begin()),
                      .count = first < last ? static_cast<int>(last - first) : 0,
                      .offset = weights_.size()});
    if (first < last) weights_.insert(weights_.end(), first, last);
  }
}

double MelBank::sum(int band, std::span<const double> spectrum) const {
  const Band& b = bands_[static_cast<size_t>(band)];
  const auto first = static_cast<size_t>(b.first);
  double sum = 0;
  for (size_t k = 0; k < static_cast<size_t>(b.count); ++k) {
    sum += weights_[b.offset + k] * spectrum[first + k];
  }
  return sum;
}

}  // namespace omni
