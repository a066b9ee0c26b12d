// audio/log_mel.cpp - mel filters, columns of log power, and whole clips.
#include "audio/log_mel.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>

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

int64_t mel_frame_count(int64_t samples) {
  return (samples + kMelHop - 1) / kMelHop;
}

int64_t audio_position_count(int64_t mel_frames) {
  return (mel_frames + 1) / 2;
}

int64_t audio_embedding_count(int64_t samples, int pool) {
  require(samples > 0, ErrorCode::invalid_argument, "the audio is empty");
  require(pool > 0, ErrorCode::invalid_argument, "pooling needs at least 1 position, got ", pool);
  const int64_t counted = std::max<int64_t>(samples, kMinClipSamples);
  return audio_position_count(mel_frame_count(counted)) / pool;
}

void require_finite(std::span<const float> samples) {
  const auto bad = std::find_if_not(samples.begin(), samples.end(), [](float x) { return std::isfinite(x); });
  require(bad == samples.end(), ErrorCode::invalid_argument, "audio sample ", bad - samples.begin(), " of ",
          samples.size(), " is ", bad == samples.end() ? 0.0F : *bad, "; samples must be finite numbers");
}

std::vector<float> mel_filter_bank(int bins) {
  require(bins > 0 && bins <= 1000, ErrorCode::invalid_argument, "a filter bank has 1 to 1000 bands, not ",
          bins);
  const auto corner = [&](int i) { return mel_to_hz(hz_to_mel(kAudioRate / 2.0) * i / (bins + 1)); };
  constexpr double kBinHz = static_cast<double>(kAudioRate) / kMelWindow;
  std::vector<float> filters;
  filters.reserve(static_cast<size_t>(bins) * kSpectrumBins);
  for (int m = 0; m < bins; ++m) {
    const double low = corner(m);
    const double centre = corner(m + 1);
    const double high = corner(m + 2);
    for (int k = 0; k < kSpectrumBins; ++k) {
      const double hz = kBinHz * k;
      const double triangle = std::min((hz - low) / (centre - low), (high - hz) / (high - centre));
      filters.push_back(static_cast<float>(std::max(0.0, triangle) * 2.0 / (high - low)));
    }
  }
  return filters;
}

LogMel::Impl::Impl(std::span<const float> filters) : fft(kMelWindow), window() {
  require(!filters.empty() && filters.size() % kSpectrumBins == 0 && filters.size() / kSpectrumBins <= 1000,
          ErrorCode::format, "a mel filter bank is 1 to 1000 rows of ", kSpectrumBins, " weights, got ",
          filters.size(), " weights in all");
  for (size_t i = 0; i < window.size(); ++i) {
    window[i] = 0.5 - 0.5 * std::cos(2.0 * std::numbers::pi * static_cast<double>(i) / kMelWindow);
  }
  for (size_t row = 0; row < filters.size() / kSpectrumBins; ++row) {
    const auto band = filters.subspan(row * kSpectrumBins, kSpectrumBins);
    require(std::all_of(band.begin(), band.end(), [](float w) { return std::isfinite(w) && w >= 0; }),
            ErrorCode::format, "row ", row,
            " of the mel filter bank holds a weight that is negative or not finite");
    const auto used = [](float w) { return w != 0; };
    const auto first = std::find_if(band.begin(), band.end(), used);
    const auto last = std::find_if(band.rbegin(), band.rend(), used).base();
    bands.push_back({.first = static_cast<int>(first - band.begin()),
                     .count = first < last ? static_cast<int>(last - first) : 0,
                     .offset = weights.size()});
    if (first < last) weights.insert(weights.end(), first, last);
  }
}

float LogMel::Impl::column(std::span<const float> samples, int64_t length, int64_t t, float* out,
                           Work& work) const {
  const int64_t start = t * kMelHop - kMelWindow / 2;
  const auto size = static_cast<int64_t>(samples.size());
  if (start >= 0 && start + kMelWindow <= size) {
    const float* x = samples.data() + start;
    for (size_t i = 0; i < window.size(); ++i) work.windowed[i] = window[i] * static_cast<double>(x[i]);
  } else {
    for (size_t i = 0; i < window.size(); ++i) {
      int64_t at = std::abs(start + static_cast<int64_t>(i));
      if (at >= length) at = 2 * (length - 1) - at;
      work.windowed[i] = at < size ? window[i] * static_cast<double>(samples[static_cast<size_t>(at)]) : 0.0;
    }
  }
  fft.power(work.windowed, work.power, work.fft);
  float loudest = kLogFloor;
  for (size_t m = 0; m < bands.size(); ++m) {
    const Band& band = bands[m];
    double power = 0;
    for (int k = 0; k < band.count; ++k) {
      power +=
          weights[band.offset + static_cast<size_t>(k)] * work.power[static_cast<size_t>(band.first + k)];
    }
    out[m] = std::max(static_cast<float>(std::log10(std::max(power, 1e-10))), kLogFloor);
    loudest = std::max(loudest, out[m]);
  }
  return loudest;
}

LogMel::LogMel() : LogMel(mel_filter_bank()) {}

LogMel::LogMel(std::span<const float> filters) : impl_(std::make_shared<const Impl>(filters)) {}

int LogMel::bins() const {
  return static_cast<int>(impl_->bands.size());
}

Mel LogMel::clip(std::span<const float> samples) const {
  require(!samples.empty(), ErrorCode::invalid_argument, "the audio is empty");
  require_finite(samples);
  Mel mel{.frames = mel_frame_count(static_cast<int64_t>(samples.size())), .bins = bins(), .data = {}};
  const auto rows = static_cast<size_t>(mel.bins);
  const auto frames = static_cast<size_t>(mel.frames);
  mel.data.resize(rows * frames);
  Impl::Work work = impl_->make_work();
  std::vector<float> column(rows);
  for (size_t start = 0; start < samples.size(); start += kClipSamples) {
    const auto piece = samples.subspan(start, std::min<size_t>(kClipSamples, samples.size() - start));
    const size_t first = start / kMelHop;
    const size_t kept = std::min(frames - first, size_t{kClipSamples / kMelHop});
    // The extractor fills a piece with zeros to 30 s. Frames behind the clip are dropped, but those that
    // still see a sample count for the maximum; later ones are silent and can't.
    const size_t seen =
        std::min<size_t>((piece.size() + kMelWindow / 2 + kMelHop - 1) / kMelHop, kClipSamples / kMelHop);
    float loudest = kLogFloor;
    for (size_t t = 0; t < std::max(seen, kept); ++t) {
      loudest =
          std::max(loudest, impl_->column(piece, kClipSamples, static_cast<int64_t>(t), column.data(), work));
      if (t >= kept) continue;
      for (size_t m = 0; m < rows; ++m) mel.data[m * frames + first + t] = column[m];
    }
    for (size_t m = 0; m < rows; ++m) {
      float* row = mel.data.data() + m * frames + first;
      std::transform(row, row + kept, row, [&](float v) { return normalised(v, loudest - kDynamicRange); });
    }
  }
  return mel;
}

}  // namespace omni
