// token2wav/istft.cpp - transforms of 16 samples, by the definition.
#include "token2wav/istft.h"

#include <algorithm>
#include <cmath>

namespace omni {
namespace {

constexpr auto kSize = static_cast<size_t>(VocoderStft::kSize);
constexpr auto kBins = static_cast<size_t>(VocoderStft::kBins);
constexpr auto kHop = static_cast<size_t>(VocoderStft::kHop);
constexpr float kMaxMagnitude = 100.0F;
constexpr float kMaxSample = 0.99F;

// cos and sin of 2 pi k n / 16 for every product k n modulo 16.
struct Turns {
  std::array<float, kSize> cosine{};
  std::array<float, kSize> sine{};
  std::array<float, kSize> hann{};
  Turns() {
    for (size_t i = 0; i < kSize; ++i) {
      const double angle = 2.0 * 3.14159265358979323846 * static_cast<double>(i) / static_cast<double>(kSize);
      cosine[i] = static_cast<float>(std::cos(angle));
      sine[i] = static_cast<float>(std::sin(angle));
      hann[i] = static_cast<float>(0.5 - 0.5 * std::cos(angle));
    }
  }
};

const Turns& turns() {
  static const Turns t;
  return t;
}

}  // namespace

const std::array<float, VocoderStft::kSize>& VocoderStft::window() {
  return turns().hann;
}

void analyse(const std::function<float(int64_t)>& sample, int64_t c, float* out) {
  const Turns& t = turns();
  std::array<float, kSize> x{};
  for (size_t i = 0; i < kSize; ++i) {
    x[i] = t.hann[i] * sample(c * VocoderStft::kHop - VocoderStft::kReach + static_cast<int64_t>(i));
  }
  for (size_t k = 0; k < kBins; ++k) {
    float real = 0;
    float imaginary = 0;
    for (size_t i = 0; i < kSize; ++i) {
      real += x[i] * t.cosine[k * i % kSize];
      imaginary -= x[i] * t.sine[k * i % kSize];
    }
    out[k] = real;
    out[kBins + k] = imaginary;
  }
}

void Istft::reset() {
  *this = Istft();
}

void Istft::emit(std::vector<float>& out) {
  for (size_t i = 0; i < kHop; ++i, ++next_) {
    if (next_ >= 0) out.push_back(std::clamp(sum_[i] / weight_[i], -kMaxSample, kMaxSample));
  }
  std::copy(sum_.begin() + kHop, sum_.end(), sum_.begin());
  std::copy(weight_.begin() + kHop, weight_.end(), weight_.begin());
  std::fill(sum_.end() - kHop, sum_.end(), 0.0F);
  std::fill(weight_.end() - kHop, weight_.end(), 0.0F);
}

void Istft::push(const float* column, std::vector<float>& out) {
  const Turns& t = turns();
  std::array<float, kBins> real{};
  std::array<float, kBins> imaginary{};
  for (size_t k = 0; k < kBins; ++k) {
    const float magnitude = std::min(std::exp(column[k]), kMaxMagnitude);
    const float phase = std::sin(column[kBins + k]);
    real[k] = magnitude * std::cos(phase);
    imaginary[k] = magnitude * std::sin(phase);
  }
  for (size_t i = 0; i < kSize; ++i) {
    float x = real[0] + (i % 2 == 0 ? real[kBins - 1] : -real[kBins - 1]);
    for (size_t k = 1; k + 1 < kBins; ++k) {
      x += 2.0F * (real[k] * t.cosine[k * i % kSize] - imaginary[k] * t.sine[k * i % kSize]);
    }
    sum_[i] += t.hann[i] * x / static_cast<float>(kSize);
    weight_[i] += t.hann[i] * t.hann[i];
  }
  emit(out);
}

void Istft::finish(int64_t n, std::vector<float>& out) {
  while (next_ < n) {
    const size_t before = out.size();
    const int64_t room = n - next_;
    emit(out);
    if (room < VocoderStft::kHop) {
      out.resize(before + static_cast<size_t>(std::max<int64_t>(room, 0)));
    }
  }
}

}  // namespace omni
