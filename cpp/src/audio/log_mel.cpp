// audio/log_mel.cpp - mel filters, columns of log power, and whole clips.
#include "audio/log_mel.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>

namespace omni {
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
  return slaney_filters(bins, kAudioRate, kMelWindow, kAudioRate / 2.0);
}

LogMel::Impl::Impl(std::span<const float> filters) : fft(kMelWindow), window(), bank(filters, kSpectrumBins) {
  for (size_t i = 0; i < window.size(); ++i) {
    window[i] = 0.5 - 0.5 * std::cos(2.0 * std::numbers::pi * static_cast<double>(i) / kMelWindow);
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
  for (int m = 0; m < bank.bands(); ++m) {
    const double power = bank.sum(m, work.power);
    out[m] = std::max(static_cast<float>(std::log10(std::max(power, 1e-10))), kLogFloor);
    loudest = std::max(loudest, out[m]);
  }
  return loudest;
}

LogMel::LogMel() : LogMel(mel_filter_bank()) {}

LogMel::LogMel(std::span<const float> filters) : impl_(std::make_shared<const Impl>(filters)) {}

int LogMel::bins() const {
  return impl_->bank.bands();
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

Mel LogMel::reflected(std::span<const float> samples) const {
  const auto length = static_cast<int64_t>(samples.size());
  require(length > kMelWindow / 2, ErrorCode::invalid_argument, "a reflected clip needs more than ",
          kMelWindow / 2, " samples, got ", length);
  require_finite(samples);
  Mel mel{.frames = length / kMelHop, .bins = bins(), .data = {}};
  const auto rows = static_cast<size_t>(mel.bins);
  const auto frames = static_cast<size_t>(mel.frames);
  mel.data.resize(rows * frames);
  Impl::Work work = impl_->make_work();
  std::vector<float> column(rows);
  float loudest = kLogFloor;
  for (size_t t = 0; t < frames; ++t) {
    loudest = std::max(loudest, impl_->column(samples, length, static_cast<int64_t>(t), column.data(), work));
    for (size_t m = 0; m < rows; ++m) mel.data[m * frames + t] = column[m];
  }
  for (float& v : mel.data) v = normalised(v, loudest - kDynamicRange);
  return mel;
}

}  // namespace omni
