// tests/voice_test.cpp - the pieces of voice cloning against their definitions.
#include "omni/audio.h"
#include "omni/error.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "audio/mel_bank.h"
#include "base/gguf_builder.h"
#include "base/graph.h"
#include "base/random_weights.h"
#include "kernels/conv1d.h"
#include "token2wav/fbank.h"
#include "token2wav/prompt_mel.h"
#include "token2wav/resample.h"
#include "token2wav/s3_tokenizer.h"
#include <gtest/gtest.h>

namespace omni {
namespace {

std::vector<float> noise(size_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = 0.1F * random.normal();
  return x;
}

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument) << e.what();
    return e.what();
  }
  return "no error";
}

TEST(S3Tokens, CountTernaryDigits) {
  const auto token = [](std::array<float, 8> codes) { return s3_tokens(codes).at(0); };
  EXPECT_EQ(token({-9, -9, -9, -9, -9, -9, -9, -9}), 0);
  EXPECT_EQ(token({0, 0, 0, 0, 0, 0, 0, 0}), 3280);
  EXPECT_EQ(token({9, 9, 9, 9, 9, 9, 9, 9}), kSpeechTokens - 1);
  EXPECT_EQ(token({-1, 1, -1, -1, 0, 1, 1, 0}), 4218);  // silence
  // The digits change where the tanh is half of 1.
  const float edge = std::atanh(0.5F);
  EXPECT_EQ(token({edge - 1e-3F, -9, -9, -9, -9, -9, -9, -9}), 1);
  EXPECT_EQ(token({edge + 1e-3F, -9, -9, -9, -9, -9, -9, -9}), 2);
  EXPECT_EQ(token({-edge + 1e-3F, -9, -9, -9, -9, -9, -9, -9}), 1);
  EXPECT_EQ(token({-edge - 1e-3F, -9, -9, -9, -9, -9, -9, -9}), 0);
  EXPECT_EQ(s3_token_count(260), 65);
  EXPECT_EQ(s3_token_count(9), 3);
  EXPECT_EQ(s3_token_count(8), 2);
}

TEST(Conv1d, EqualsTheSum) {
  constexpr int64_t kTaps = 3, kIn = 5, kOut = 4, kRows = 17;
  GgufBuilder builder;
  builder.tensor("conv.weight", GGML_TYPE_F32, {kTaps, kIn, kOut});
  builder.tensor("conv.bias", GGML_TYPE_F32, {kOut});
  const auto file = builder.build("test", RandomWeights());
  const auto device = std::make_shared<Device>(DeviceOptions{.n_threads = 1});
  const std::vector<float> x = noise(kIn * kRows, 3);
  std::vector<float> kernel(kTaps * kIn * kOut);
  read_floats(file->tensor("conv.weight"), kernel.data());
  struct Shape {
    int64_t stride, dilation, left, right;
  };
  for (const Shape& s : {Shape{1, 1, 0, 0}, {1, 1, 1, 1}, {2, 1, 2, 0}, {1, 2, 0, 4}, {3, 1, 0, 0}}) {
    Weights weights(file, device);
    const Conv1d layer = load_conv1d(weights, "conv", kTaps, kIn, kOut, {}, s.stride, s.dilation, Bias::none);
    weights.load();
    Executor executor(device);
    const Graph graph(64);
    ggml_tensor* input = graph.input(GGML_TYPE_F32, {kIn, kRows}, "x");
    ggml_tensor* output =
        graph.output(conv1d(graph.ctx(), layer, with_zeros(graph.ctx(), input, s.left, s.right)), "y");
    executor.place(graph);
    executor.set<float>(input, x);
    executor.compute(graph);
    std::vector<float> y(static_cast<size_t>(ggml_nelements(output)));
    executor.get<float>(output, y);
    const int64_t rows = (kRows + s.left + s.right - s.dilation * (kTaps - 1) - 1) / s.stride + 1;
    ASSERT_EQ(output->ne[1], rows);
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t o = 0; o < kOut; ++o) {
        double sum = 0;
        for (int64_t k = 0; k < kTaps; ++k) {
          const int64_t row = t * s.stride + k * s.dilation - s.left;
          if (row < 0 || row >= kRows) continue;
          for (int64_t i = 0; i < kIn; ++i) {
            sum += static_cast<double>(kernel[static_cast<size_t>((o * kIn + i) * kTaps + k)]) *
                   static_cast<double>(x[static_cast<size_t>(row * kIn + i)]);
          }
        }
        EXPECT_NEAR(y[static_cast<size_t>(t * kOut + o)], sum, 1e-6) << t << " " << o;
      }
    }
  }
}

TEST(SincResample, KeepsASine) {
  for (const auto& [from, to] : {std::pair{16000, 24000}, {24000, 16000}, {8000, 16000}, {44100, 24000}}) {
    std::vector<float> x(static_cast<size_t>(from / 2));
    const auto sine = [](int rate, size_t i) {
      return std::sin(2 * std::numbers::pi * 500 * static_cast<double>(i) / rate);
    };
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(sine(from, i));
    const std::vector<float> y = sinc_resample(x, from, to);
    ASSERT_EQ(y.size(), static_cast<size_t>(to / 2));
    // The pass band of the window is flat to about 1e-3; the ends see the zeros around the signal.
    for (size_t i = 100; i + 100 < y.size(); ++i) EXPECT_NEAR(y[i], sine(to, i), 2e-3) << from << " " << i;
  }
  EXPECT_EQ(sinc_resample(std::vector<float>{1, 2, 3}, 7, 7), (std::vector<float>{1, 2, 3}));
  EXPECT_TRUE(sinc_resample({}, 3, 2).empty());
  EXPECT_EQ(sinc_resample(std::vector<float>(1), 16000, 24000).size(), 2U);
  EXPECT_NE(message_of([] { sinc_resample({}, 0, 1); }).find("0 to 1"), std::string::npos);
}

TEST(MelBank, SumsAreProductsWithTheFilters) {
  const std::vector<float> filters = slaney_filters(80, 24000, 1920, 8000);
  const MelBank bank(filters, 961);
  std::vector<double> spectrum(961);
  for (size_t i = 0; i < spectrum.size(); ++i) spectrum[i] = static_cast<double>(i % 7) + 0.5;
  for (size_t band = 0; band < 80; ++band) {
    double sum = 0;
    for (size_t k = 0; k < 961; ++k) sum += static_cast<double>(filters[band * 961 + k]) * spectrum[k];
    EXPECT_NEAR(bank.sum(static_cast<int>(band), spectrum), sum, 1e-12 * sum);
    EXPECT_EQ(filters[band * 961 + 641], 0.0F);  // nothing above 8 kHz
  }
  EXPECT_EQ(slaney_filters(80, 16000, 400, 8000), mel_filter_bank(80));
}

TEST(LogMel, ReflectedClipsEndWithTheirLastSample) {
  const LogMel mel(mel_filter_bank(128));
  const std::vector<float> x = noise(4000, 5);
  const Mel whole = mel.reflected(x);
  EXPECT_EQ(whole.frames, 25);
  // The same sound with its reflections written out: frames 2 to 26 of it do not reach its ends.
  std::vector<float> written(x.rbegin() + 4000 - 321, x.rbegin() + 4000 - 1);  // x[320] .. x[1]
  written.insert(written.end(), x.begin(), x.end());
  for (size_t i = 1; i <= 320; ++i) written.push_back(x[4000 - 1 - i]);
  const Mel longer = mel.reflected(written);
  for (int b = 0; b < 128; ++b) {
    for (int64_t t = 0; t < whole.frames; ++t) {
      const auto at = [b](const Mel& m, int64_t frame) {
        return m.data[static_cast<size_t>(b * m.frames + frame)];
      };
      EXPECT_NEAR(at(whole, t), at(longer, t + 2), 1e-5) << b << " " << t;
    }
  }
  EXPECT_NE(message_of([&] { mel.reflected(std::span(x).first(200)); }).find("more than 200"),
            std::string::npos);
  std::vector<float> broken = x;
  broken[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(message_of([&] { mel.reflected(broken); }).find("sample 7"), std::string::npos);
}

TEST(Fbank, IgnoresGainAndNeedsAWindow) {
  const std::vector<float> x = noise(4000, 9);
  std::vector<float> louder = x;
  for (float& v : louder) v *= 4;
  const std::vector<float> a = centred_fbank(x);
  const std::vector<float> b = centred_fbank(louder);
  ASSERT_EQ(a.size(), static_cast<size_t>(80 * fbank_frames(4000)));
  EXPECT_EQ(fbank_frames(4000), 23);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-4);  // but for the floor
  for (size_t band = 0; band < 80; ++band) {
    double sum = 0;
    for (size_t i = band; i < a.size(); i += 80) sum += static_cast<double>(a[i]);
    EXPECT_NEAR(sum, 0, 1e-4);
  }
  EXPECT_EQ(centred_fbank(std::vector<float>(400)).size(), 80U);
  EXPECT_NE(message_of([&] { centred_fbank(std::span(x).first(399)); }).find("400"), std::string::npos);
}

TEST(PromptMel, CountsFramesAndFloors) {
  EXPECT_EQ(prompt_mel(noise(721, 1)).size(), 80U);
  EXPECT_EQ(prompt_mel(noise(1439, 1)).size(), 160U);
  EXPECT_NE(message_of([] { prompt_mel(noise(720, 1)); }).find("more than 720"), std::string::npos);
  // Digital silence: the magnitude is the root of its floor in every frequency, and a filter of area 1 in Hz
  // sums it over bins of 12.5 Hz.
  for (const float v : prompt_mel(std::vector<float>(4800))) {
    EXPECT_NEAR(v, std::log(std::max(1e-5, std::sqrt(1e-9) / 12.5)), 0.5);
  }
}

}  // namespace
}  // namespace omni
