// token2wav/fbank.cpp - framing, Povey's window, and triangles on Kaldi's mel scale.
#include "token2wav/fbank.h"

#include "omni/error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "audio/fft.h"
#include "audio/mel_bank.h"

namespace omni {
namespace {

constexpr int kRate = 16000;
constexpr int kBands = 80;
constexpr int kLength = 512;  // of the transform
constexpr int kFrequencies = kLength / 2 + 1;
constexpr double kLowHz = 20.0;
constexpr double kHighHz = 8000.0;
constexpr double kPreEmphasis = 0.97;
constexpr double kFloor = 1.1920928955078125e-07;  // the distance from 1 to the next float32

double hz_to_mel(double hz) {
  return 1127.0 * std::log(1.0 + hz / 700.0);
}

// Linear in mel, without normalisation; the highest frequency takes no part.
std::vector<float> filters() {
  const double low = hz_to_mel(kLowHz);
  const double step = (hz_to_mel(kHighHz) - low) / (kBands + 1);
  std::vector<float> out;
  out.reserve(size_t{kBands} * kFrequencies);
  for (int band = 0; band < kBands; ++band) {
    const double left = low + band * step;
    for (int k = 0; k < kFrequencies; ++k) {
      const double mel = hz_to_mel(static_cast<double>(k) * kRate / kLength);
      const double triangle = std::min((mel - left) / step, (left + 2 * step - mel) / step);
      out.push_back(k + 1 == kFrequencies ? 0.0F : static_cast<float>(std::max(0.0, triangle)));
    }
  }
  return out;
}

std::array<double, kFbankWindow> povey_window() {
  std::array<double, kFbankWindow> window{};
  for (size_t i = 0; i < window.size(); ++i) {
    const double phase = 2.0 * std::numbers::pi * static_cast<double>(i) / (kFbankWindow - 1);
    window[i] = std::pow(0.5 - 0.5 * std::cos(phase), 0.85);
  }
  return window;
}

}  // namespace

std::vector<float> centred_fbank(std::span<const float> samples) {
  const int64_t frames = fbank_frames(static_cast<int64_t>(samples.size()));
  require(frames > 0, ErrorCode::invalid_argument, "filter bank features need at least ", kFbankWindow,
          " samples, got ", samples.size());
  const RealFft fft(kLength);
  const MelBank bank(filters(), kFrequencies);
  const auto window = povey_window();
  RealFft::Work work = fft.make_work();
  std::array<double, kLength> frame{};
  std::array<double, kFrequencies> power{};
  std::array<double, kBands> sums{};
  std::vector<float> out(static_cast<size_t>(frames) * kBands);
  for (size_t t = 0; t < static_cast<size_t>(frames); ++t) {
    const auto x = samples.subspan(t * kFbankHop, kFbankWindow);
    double mean = 0;
    for (const float v : x) mean += static_cast<double>(v);
    mean /= kFbankWindow;
    for (size_t i = 0; i < window.size(); ++i) {
      const double before = static_cast<double>(x[i > 0 ? i - 1 : 0]) - mean;
      frame[i] = window[i] * (static_cast<double>(x[i]) - mean - kPreEmphasis * before);
    }
    fft.power(frame, power, work);
    for (int band = 0; band < kBands; ++band) {
      const double energy = std::log(std::max(bank.sum(band, power), kFloor));
      sums[static_cast<size_t>(band)] += energy;
      out[t * kBands + static_cast<size_t>(band)] = static_cast<float>(energy);
    }
  }
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(static_cast<double>(out[i]) - sums[i % kBands] / static_cast<double>(frames));
  }
  return out;
}

}  // namespace omni
