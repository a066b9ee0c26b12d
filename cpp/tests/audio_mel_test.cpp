// tests/audio_mel_test.cpp - transform, filters, clips and streams of log-mel features against their
// definitions.
#include "omni/audio.h"
#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numbers>
#include <random>
#include <string>

#include "audio/fft.h"
#include <gtest/gtest.h>

namespace omni {
namespace {

std::vector<float> noise(size_t n, uint32_t seed, float scale = 0.1F) {
  std::mt19937 random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = scale * (static_cast<float>(random() % 20001) / 10000.0F - 1.0F);
  return x;
}

std::string message_of(const std::function<void()>& act, ErrorCode code = ErrorCode::invalid_argument) {
  try {
    act();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "no error";
}

TEST(RealFft, EqualsTheSumForEveryRadix) {
  for (const int n : {2, 4, 6, 10, 12, 14, 16, 26, 60, 98, 400, 512, 1920}) {
    const RealFft fft(n);
    auto work = fft.make_work();
    std::mt19937 random(static_cast<uint32_t>(n));
    std::vector<double> x(static_cast<size_t>(n));
    for (double& v : x) v = static_cast<double>(random()) / 4294967296.0 - 0.5;
    std::vector<RealFft::Complex> spectrum(static_cast<size_t>(fft.bins()));
    std::vector<double> power(spectrum.size());
    fft.transform(x, spectrum, work);
    fft.power(x, power, work);
    for (int k = 0; k < fft.bins(); ++k) {
      std::complex<double> sum = 0;
      for (int i = 0; i < n; ++i) {
        const double angle = -2 * std::numbers::pi * (int64_t{i} * k % n) / n;
        sum += x[static_cast<size_t>(i)] * std::polar(1.0, angle);
      }
      // Both sums round in double: n terms of at most 1/2.
      const double tolerance = 1e-15 * n;
      EXPECT_NEAR(spectrum[static_cast<size_t>(k)].re, sum.real(), tolerance) << n << " " << k;
      EXPECT_NEAR(spectrum[static_cast<size_t>(k)].im, sum.imag(), tolerance) << n << " " << k;
      EXPECT_NEAR(power[static_cast<size_t>(k)], std::norm(sum), tolerance * n) << n << " " << k;
    }
  }
  EXPECT_NE(message_of([] { const RealFft odd(5); }).find("even length, got 5"), std::string::npos);
}

TEST(MelFilters, AreSlaneys) {
  const auto filters = mel_filter_bank();
  const auto at = [&](int m, int k) { return filters[static_cast<size_t>(m * kSpectrumBins + k)]; };
  ASSERT_EQ(filters.size(), 80U * 201U);
  EXPECT_EQ(std::count_if(filters.begin(), filters.end(), [](float w) { return w != 0; }), 391);
  EXPECT_FLOAT_EQ(at(0, 1), 0.0248625949F);
  EXPECT_FLOAT_EQ(at(1, 1), 0.00199082191F);
  EXPECT_FLOAT_EQ(at(1, 2), 0.0228717718F);
  EXPECT_FLOAT_EQ(at(39, 40), 0.00141804758F);
  EXPECT_FLOAT_EQ(at(39, 43), 0.000400222867F);
  EXPECT_FLOAT_EQ(at(79, 192), 0.00316471164F);
  EXPECT_EQ(at(79, 185), 0.0F);
  EXPECT_GT(at(79, 199), 0.0F);
}

TEST(LogMel, KnownValuesOfSineAndSilence) {
  const LogMel mel;
  for (const float v : mel.clip(std::vector<float>(5000)).data) EXPECT_EQ(v, -1.5F);
  // A clip's right edge differs from the spec's single extraction, its left edge and middle don't.
  std::vector<float> sine(16000);
  for (size_t n = 0; n < sine.size(); ++n) {
    sine[n] =
        static_cast<float>(0.5 * std::sin(2 * std::numbers::pi * 1000.0 * static_cast<double>(n) / 16000));
  }
  const Mel out = mel.clip(sine);
  ASSERT_EQ(out.frames, 100);
  const auto at = [&](int m, int t) { return out.data[static_cast<size_t>(m * 100 + t)]; };
  // Values of double arithmetic; samples and output are floats.
  EXPECT_NEAR(at(25, 50), 1.34112518, 1e-6);
  EXPECT_NEAR(at(26, 50), 1.43965166, 1e-6);
  EXPECT_NEAR(at(27, 50), 1.28326853, 1e-6);
  EXPECT_NEAR(at(25, 0), 1.33549974, 1e-6);
  EXPECT_NEAR(at(26, 0), 1.12786396, 1e-6);
  EXPECT_NEAR(at(27, 0), 1.33925547, 1e-6);
  EXPECT_NEAR(*std::min_element(out.data.begin(), out.data.end()), -0.56034834, 1e-6);
}

TEST(LogMel, PiecesOfThirtySecondsAreIndependent) {
  auto wav = noise(kClipSamples + 40000, 1);
  for (size_t i = kClipSamples; i < wav.size(); ++i) wav[i] *= 1e-3F;  // another maximum
  const LogMel mel;
  const Mel whole = mel.clip(wav);
  ASSERT_EQ(whole.frames, 3250);
  const Mel first = mel.clip(std::span(wav).first(kClipSamples));
  const Mel second = mel.clip(std::span(wav).subspan(kClipSamples));
  for (size_t m = 0; m < 80; ++m) {
    for (size_t t = 0; t < 3250; ++t) {
      const float part = t < 3000 ? first.data[m * 3000 + t] : second.data[m * 250 + t - 3000];
      ASSERT_EQ(whole.data[m * 3250 + t], part) << m << " " << t;
    }
  }
}

TEST(LogMel, CountsFollowTheReference) {
  EXPECT_EQ(mel_frame_count(1), 1);
  EXPECT_EQ(mel_frame_count(160), 1);
  EXPECT_EQ(mel_frame_count(161), 2);
  const std::pair<int64_t, int64_t> cases[] = {{1, 1},        {1281, 1},     {1600, 1},
                                               {16000, 10},   {16001, 10},   {480000, 300},
                                               {480001, 300}, {496000, 310}, {37920, 23}};
  for (const auto& [samples, count] : cases) EXPECT_EQ(audio_embedding_count(samples), count) << samples;
}

TEST(LogMel, RefusesBadInput) {
  const LogMel mel;
  EXPECT_NE(message_of([&] { mel.clip({}); }).find("empty"), std::string::npos);
  std::vector<float> wav(1000);
  wav[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(message_of([&] { mel.clip(wav); }).find("sample 7 of 1000 is"), std::string::npos);
  EXPECT_NE(message_of([&] { audio_embedding_count(0); }).find("empty"), std::string::npos);
  const auto make = [](const std::vector<float>& filters) { const LogMel unused(filters); };
  EXPECT_NE(message_of([&] { make(std::vector<float>(200)); }, ErrorCode::format).find("200"),
            std::string::npos);
  std::vector<float> filters(402);
  filters[300] = -1;
  EXPECT_NE(message_of([&] { make(filters); }, ErrorCode::format).find("row 1"), std::string::npos);
}

TEST(LogMel, TakesTinyAndHugeSamples) {
  const LogMel mel;
  EXPECT_EQ(mel.clip(std::vector<float>(1, 0.5F)).frames, 1);
  for (const float v : mel.clip(std::vector<float>(3000, 3e38F)).data) EXPECT_TRUE(std::isfinite(v));
}

// What the reference does, literally: the whole buffer is transformed anew for every chunk.
class Reprocessor {
 public:
  Reprocessor(int context, int first_chunk) : context_(context), first_(first_chunk) {}

  size_t wanted() const { return last_ == 0 ? static_cast<size_t>(first_) : 16000U; }
  int64_t base() const { return base_; }
  size_t buffered() const { return buffer_.size(); }

  std::vector<float> process(std::span<const float> samples, bool is_last) {
    buffer_.insert(buffer_.end(), samples.begin(), samples.end());
    if (buffer_.size() >= 480000) {
      buffer_.erase(buffer_.begin(), buffer_.begin() + 160000);
      base_ += 1000;
    }
    const auto size = static_cast<int64_t>(buffer_.size());
    const int64_t frames = size / 160;
    const int64_t stable = std::min(frames, (size - 200) / 160 + 1);
    const int64_t end = last_ + 100;
    if (base_ + stable < end + context_ && !is_last) return {};
    const int64_t from = std::max<int64_t>(0, last_ - context_) - base_;
    const int64_t to = std::min(end + context_ - base_, frames);
    last_ = end;
    const auto power = columns(frames);
    const float maximum = *std::max_element(power.begin(), power.end());
    const float floor = buffer_.size() < 80000 ? -10.0F : maximum - 8.0F;
    std::vector<float> out;
    for (int64_t m = 0; m < 80; ++m) {
      for (int64_t t = from; t < to; ++t) {
        out.push_back((std::max(power[static_cast<size_t>(t * 80 + m)], floor) + 4) / 4);
      }
    }
    return out;
  }

 private:
  std::vector<float> columns(int64_t frames) {
    const RealFft fft(400);
    auto work = fft.make_work();
    std::vector<double> windowed(400);
    std::vector<double> power(201);
    std::vector<float> out;
    const auto size = static_cast<int64_t>(buffer_.size());
    for (int64_t t = 0; t < frames; ++t) {
      for (int64_t i = 0; i < 400; ++i) {
        int64_t at = std::abs(160 * t - 200 + i);
        if (at >= size) at = 2 * (size - 1) - at;
        const double window = 0.5 - 0.5 * std::cos(2 * std::numbers::pi * static_cast<double>(i) / 400);
        windowed[static_cast<size_t>(i)] = window * buffer_[static_cast<size_t>(at)];
      }
      fft.power(windowed, power, work);
      for (size_t m = 0; m < 80; ++m) {
        double sum = 0;
        for (size_t k = 0; k < 201; ++k) sum += filters_[m * 201 + k] * power[k];
        out.push_back(static_cast<float>(std::log10(std::max(sum, 1e-10))));
      }
    }
    return out;
  }

  int64_t context_;
  int first_;
  int64_t base_ = 0;
  int64_t last_ = 0;
  std::vector<float> buffer_;
  std::vector<float> filters_ = mel_filter_bank();
};

class MelStreamModes : public testing::TestWithParam<bool> {
 protected:
  MelStreamOptions options() const {
    return GetParam() ? MelStreamOptions::duplex() : MelStreamOptions::simplex();
  }
};

// 45 seconds with slides at the 30th and 40th chunk. Loud bursts come and go, so that the maximum leaves the
// window, and one stands at a slide's cut and at chunk ends, where only reflected samples show it.
TEST_P(MelStreamModes, EqualsFullRecomputationOverSlides) {
  auto wav = noise(45 * 16000, 2, 0.01F);
  for (const size_t burst : {3200U, 160000U - 570U, 160100U, 320000U - 560U, 480000U, 33U * 16000U - 600U}) {
    for (size_t i = 0; i < 300; ++i) wav[burst + i] += (i % 7 < 3) ? 0.9F : -0.8F;
  }
  const LogMel mel;
  MelStream stream(mel, options());
  Reprocessor reference(options().context_frames, options().first_chunk_samples);
  std::vector<float> fed(560);
  fed.insert(fed.end(), wav.begin(), wav.end());
  std::span<const float> rest_fed = fed;
  std::span<const float> rest = wav;
  int64_t count = 0;
  std::mt19937 random(3);
  while (!rest.empty()) {
    auto part = rest.first(std::min<size_t>(rest.size(), 1 + random() % 20000));
    rest = rest.subspan(part.size());
    while (!part.empty()) {
      const auto chunk = stream.push(part);
      if (!chunk) continue;
      ++count;
      const auto now = rest_fed.first(reference.wanted());
      rest_fed = rest_fed.subspan(now.size());
      const auto expected = reference.process(now, false);
      ASSERT_EQ(chunk->data.size(), expected.size());
      EXPECT_EQ(chunk->dynamic, count >= 5);
      EXPECT_EQ(chunk->first_frame, std::max<int64_t>(0, 100 * (count - 1) - options().context_frames));
      EXPECT_EQ(chunk->frames, options().context_frames == 0 ? 100 : count == 1 ? 102 : 104);
      EXPECT_EQ(chunk->suffix, options().context_frames);
      EXPECT_EQ(chunk->prefix, count == 1 ? 0 : options().context_frames);
      if (count == 30) EXPECT_EQ(reference.base(), 1000);
      if (count == 40) EXPECT_EQ(reference.base(), 2000);
      for (size_t i = 0; i < expected.size(); ++i) {
        // The same arithmetic but for the order of the filters' sums.
        ASSERT_NEAR(chunk->data[i], expected[i], 1e-6) << "chunk " << count << " value " << i;
      }
    }
  }
  EXPECT_EQ(count, 45);
}

TEST_P(MelStreamModes, FlushGivesTheShortRest) {
  const auto wav = noise(16000 * 2 + 5000, 4);
  MelStream stream(LogMel(), options());
  std::span<const float> rest = wav;
  int count = 0;
  while (!rest.empty()) count += stream.push(rest).has_value() ? 1 : 0;
  EXPECT_EQ(count, 2);
  const auto last = stream.flush();
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(last->new_samples, GetParam() ? 5080 : 5000);
  EXPECT_EQ(last->frames - last->prefix, (560 + 5000) / 160);
  EXPECT_EQ(last->suffix, 0);
  EXPECT_FALSE(stream.flush().has_value());
  std::span<const float> more = wav;
  EXPECT_NE(message_of([&] { stream.push(more); }).find("reset"), std::string::npos);
  stream.reset();
  EXPECT_TRUE(stream.push(more).has_value());
}

TEST_P(MelStreamModes, ShortFirstSecondIsMovedToItsEnd) {
  const auto wav = noise(7000, 5);
  std::vector<float> second(9000);
  second.insert(second.end(), wav.begin(), wav.end());
  MelStream stream(LogMel(), options());
  EXPECT_FALSE(stream.flush().has_value());
  stream.reset();
  std::span<const float> rest = wav;
  ASSERT_FALSE(stream.push(rest).has_value());
  const auto chunk = stream.flush();
  ASSERT_TRUE(chunk.has_value());
  MelStream whole(LogMel(), options());
  rest = second;
  const auto expected = whole.push(rest);
  ASSERT_TRUE(expected.has_value());
  EXPECT_TRUE(
      std::equal(chunk->data.begin(), chunk->data.end(), expected->data.begin(), expected->data.end()));
}

TEST_P(MelStreamModes, CopyIsASnapshot) {
  const auto wav = noise(16000 * 8, 6);
  MelStream stream(LogMel(), options());
  std::span<const float> rest = std::span(wav).first(50000);
  while (!rest.empty()) stream.push(rest);
  MelStream copy = stream;
  rest = std::span(wav).subspan(50000);
  std::vector<float> first;
  while (!rest.empty()) {
    if (const auto chunk = stream.push(rest)) first.assign(chunk->data.begin(), chunk->data.end());
  }
  stream = copy;
  for (MelStream* each : {&stream, &copy}) {
    rest = std::span(wav).subspan(50000);
    std::vector<float> again;
    while (!rest.empty()) {
      if (const auto chunk = each->push(rest)) again.assign(chunk->data.begin(), chunk->data.end());
    }
    EXPECT_EQ(first, again);
  }
}

TEST_P(MelStreamModes, BadSampleLeavesTheStreamUnchanged) {
  const auto wav = noise(16000, 7);
  MelStream stream(LogMel(), options());
  std::span<const float> rest = std::span(wav).first(100);
  stream.push(rest);
  const float bad[] = {0, std::numeric_limits<float>::infinity()};
  std::span<const float> hostile = bad;
  EXPECT_NE(message_of([&] { stream.push(hostile); }).find("sample 1 of 2"), std::string::npos);
  rest = std::span(wav).subspan(100);
  EXPECT_TRUE(stream.push(rest).has_value());
}

INSTANTIATE_TEST_SUITE_P(Modes, MelStreamModes, testing::Bool(),
                         [](const auto& mode) { return mode.param ? "duplex" : "simplex"; });

TEST(MelStream, RefusesUnusableOptions) {
  const LogMel mel;
  const auto make = [&](MelStreamOptions options) { const MelStream unused(mel, options); };
  EXPECT_NE(message_of([&] { make({.context_frames = -1}); }).find("context_frames"), std::string::npos);
  EXPECT_NE(message_of([&] { make({.first_chunk_samples = 16000}); }).find("first_chunk_samples"),
            std::string::npos);
  EXPECT_NE(message_of([&] { make({.lead_in_samples = 16560}); }).find("lead_in_samples"), std::string::npos);
}

}  // namespace
}  // namespace omni
