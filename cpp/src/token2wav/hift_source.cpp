// token2wav/hift_source.cpp - the excitation of both vocoders.
#include <algorithm>
#include <cmath>

#include "token2wav/vocoder.h"

namespace omni {
namespace {

constexpr auto kHarmonics = static_cast<size_t>(HiftConfig::kHarmonics);
constexpr auto kSamples = static_cast<size_t>(HiftConfig::kSamples);
constexpr float kAmplitude = 0.1F;
constexpr float kVoicedNoise = 0.003F;
constexpr float kUnvoicedNoise = kAmplitude / 3.0F;
constexpr float kVoicedFrom = 10.0F;  // Hz
// The causal vocoder's noise repeats after 300 s.
constexpr int64_t kNoisePeriod = 300 * HiftConfig::kSampleRate;

// Cycles of harmonic h in one sample, without whole ones; in float32 as the reference computes it.
float step_of(float f0, size_t h) {
  const float cycles = f0 * static_cast<float>(h + 1) / static_cast<float>(HiftConfig::kSampleRate);
  return cycles - std::floor(cycles);
}

}  // namespace

Excitation::Excitation(const HiftNet& net, const ExcitationOptions& options)
    : weights_(net.source_weights()), options_(options), random_(options.seed) {
  double sum = 0;
  for (size_t h = 0; h < kHarmonics; ++h) sum += static_cast<double>(weights_[h]) * weights_[h];
  norm_ = static_cast<float>(std::sqrt(sum));
}

void Excitation::reset() {
  random_.reseed(options_.seed);
  phase_.fill(0);
  sample_ = 0;
}

float Excitation::mix(const float* sines) const {
  float sum = weights_[kHarmonics];
  for (size_t h = 0; h < kHarmonics; ++h) sum += weights_[h] * sines[h];
  return sum;
}

float Excitation::gaussian(bool voiced) {
  return (voiced ? kVoicedNoise : kUnvoicedNoise) * norm_ * random_.normal();
}

float Excitation::uniform(bool voiced) {
  if (sample_++ % kNoisePeriod == 0) random_.reseed(options_.seed);
  float sum = 0;
  for (size_t h = 0; h < kHarmonics; ++h) sum += weights_[h] * static_cast<float>(random_.uniform());
  return (voiced ? kVoicedNoise : kUnvoicedNoise) * sum;
}

void Excitation::whole(std::span<const float> f0, size_t first_new, std::vector<float>& out) {
  const size_t n = f0.size();
  out.resize(n * kSamples);
  // The order of roundings is the reference's: phases reach 10^5 radians, where float32 steps are 0.01.
  constexpr float kPi = 3.14159265F;
  std::vector<float> phase(n * kHarmonics);
  for (size_t h = 0; h < kHarmonics; ++h) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i) {
      sum += step_of(f0[i], h);
      phase[i * kHarmonics + h] = static_cast<float>(sum) * 2.0F * kPi * static_cast<float>(kSamples);
    }
  }
  std::array<float, kHarmonics> sines{};
  for (size_t j = 0; j < out.size(); ++j) {
    const float place =
        std::max((static_cast<float>(j) + 0.5F) * (1.0F / static_cast<float>(kSamples)) - 0.5F, 0.0F);
    const auto left = std::min(static_cast<size_t>(place), n - 1);
    const size_t right = std::min(left + 1, n - 1);
    const float weight = place - static_cast<float>(left);
    const bool voiced = f0[j / kSamples] > kVoicedFrom;
    for (size_t h = 0; h < kHarmonics; ++h) {
      const float a = phase[left * kHarmonics + h];
      const float b = phase[right * kHarmonics + h];
      sines[h] = voiced ? kAmplitude * std::sin((1.0F - weight) * a + weight * b) : 0.0F;
    }
    float value = mix(sines.data());
    if (options_.noise && j >= first_new) value += gaussian(voiced);
    out[j] = std::tanh(value);
  }
}

void Excitation::next(std::span<const float> f0, std::vector<float>& out) {
  std::array<float, kHarmonics> sines{};
  for (const float f : f0) {
    const bool voiced = f > kVoicedFrom;
    for (size_t h = 0; h < kHarmonics; ++h) {
      const double cycles = phase_[h] + static_cast<double>(kSamples) * static_cast<double>(step_of(f, h));
      phase_[h] = cycles - std::floor(cycles);
      sines[h] =
          voiced ? kAmplitude * static_cast<float>(std::sin(2.0 * 3.14159265358979323846 * phase_[h])) : 0.0F;
    }
    const float level = mix(sines.data());
    for (size_t j = 0; j < kSamples; ++j) {
      out.push_back(std::tanh(options_.noise ? level + uniform(voiced) : level));
    }
  }
}

}  // namespace omni
