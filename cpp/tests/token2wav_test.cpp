// tests/token2wav_test.cpp - flow and vocoders of tiny random networks as streams, and the transforms at the
// vocoders' ends against their definitions.
#include "omni/token2wav.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "base/random.h"
#include "tiny_networks.h"
#include "token2wav/best_stretch.h"
#include "token2wav/istft.h"
#include <gtest/gtest.h>

namespace omni {
namespace {

using duplex_test::tiny_voice;

struct Kind {
  const char* format;
  const char* vocoder;
};

std::shared_ptr<Token2Wav> tiny(const Kind& kind) {
  // Two blocks, so that caches of several places are used; widths that are no whole panels.
  const SyntheticToken2Wav sizes{.width = 48,
                                 .head_dim = 24,
                                 .ffn_width = 80,
                                 .n_layers = 1,
                                 .n_up_layers = 1,
                                 .n_blocks = 2,
                                 .channels = 16};
  return Token2Wav::synthetic(
      sizes, {.weight_format = kind.format, .vocoder = kind.vocoder, .device = {.n_threads = 1}});
}

std::vector<int32_t> tokens(size_t n) {
  Random random(4);
  std::vector<int32_t> out;
  for (size_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>(random.uniform() * 6561));
  return out;
}

// Long enough for all caches to be trimmed and their rows to be taken again.
constexpr size_t kTurn = 130;

std::vector<float> spoken(Token2WavStream& stream, std::span<const int32_t> ids, uint64_t cuts) {
  Random random(cuts);
  std::vector<float> wave;
  for (size_t at = 0; at < ids.size();) {
    const size_t most = cuts == 0 ? ids.size() : static_cast<size_t>(random.uniform() * 60);
    const size_t n = std::min(ids.size() - at, most);
    at += n;
    stream.push(ids.subspan(at - n, n), at == ids.size(), wave);
  }
  return wave;
}

TEST(Token2WavStream, SoundDoesNotDependOnCuts) {
  for (const Kind& kind :
       {Kind{"stored", "causal"}, {"stored", "original"}, {"auto", "causal"}, {"auto", "original"}}) {
    const auto model = tiny(kind);
    const std::vector<int32_t> ids = tokens(kTurn);
    const auto stream = model->stream(*tiny_voice(), {.steps = 2, .seed = 3});
    const std::vector<float> whole = spoken(*stream, ids, 0);
    // Three tokens of silence first, and the vocoder's delay.
    EXPECT_EQ(whole.size(), 960 * (kTurn + 3) + 3840) << kind.format << ", " << kind.vocoder;
    EXPECT_TRUE(std::ranges::all_of(whole, [](float x) { return std::isfinite(x); }));
    EXPECT_TRUE(std::ranges::any_of(whole, [](float x) { return x != 0; }));
    EXPECT_EQ(spoken(*stream, ids, 1), whole);
  }
}

TEST(Token2WavStream, ACopyGoesOnByItself) {
  for (const Kind& kind : {Kind{"stored", "original"}, {"auto", "causal"}}) {
    const auto model = tiny(kind);
    const std::vector<int32_t> ids = tokens(kTurn);
    const std::span<const int32_t> all(ids);
    const auto stream = model->stream(*tiny_voice(), {.steps = 2, .seed = 3});
    std::vector<float> begun;
    stream->push(all.first(100), false, begun);
    const auto copy = stream->clone();
    std::vector<float> expected;
    stream->push(all.subspan(100), true, expected);
    // Another turn in between changes nothing for the copy.
    spoken(*stream, all.first(60), 0);
    std::vector<float> got;
    copy->push(all.subspan(100), true, got);
    EXPECT_EQ(got, expected);
  }
}

TEST(Token2WavStream, RoundedWeightsStayClose) {
  const std::vector<int32_t> ids = tokens(kTurn);
  const auto exact_model = tiny({"stored", "causal"});
  const auto rounded_model = tiny({"auto", "causal"});
  const auto exact = exact_model->stream(*tiny_voice(), {.steps = 4, .silence = false});
  const auto rounded = rounded_model->stream(*tiny_voice(), {.steps = 4, .silence = false});
  std::vector<float> unused;
  for (size_t at = 0; at + 28 <= ids.size(); at += 25) {
    for (const auto& stream : {exact.get(), rounded.get()}) {
      stream->window(std::span(ids).subspan(at, 28), false, unused);
    }
    double difference = 0;
    double power = 0;
    ASSERT_EQ(exact->last_mel().size(), 50U * Voice::kMelBins);
    for (size_t i = 0; i < exact->last_mel().size(); ++i) {
      const double x = exact->last_mel()[i];
      difference += std::pow(rounded->last_mel()[i] - x, 2);
      power += x * x;
    }
    // 2^-9 of every factor, a few times over.
    EXPECT_LT(std::sqrt(difference / power), 0.02) << "window at " << at;
  }
}

TEST(Token2Wav, WholeUtterancesAndStages) {
  for (const char* format : {"stored", "auto"}) {
    const auto model = tiny({format, "auto"});
    const std::vector<int32_t> ids = tokens(31);
    std::map<std::string, std::vector<float>> stages;
    const std::vector<float> wave = model->synthesize(ids, *tiny_voice(), {.steps = 2}, stages);
    EXPECT_EQ(wave.size(), 960 * ids.size());
    EXPECT_EQ(stages.at("flow_mel").size(), 2 * ids.size() * Voice::kMelBins);
    EXPECT_EQ(wave, model->synthesize(ids, *tiny_voice(), {.steps = 2})) << format;
  }
}

TEST(Token2Wav, RefusesWhatItCanNotSpeak) {
  const auto model = tiny({"auto", "causal"});
  const auto stream = model->stream(*tiny_voice(), {.steps = 1});
  std::vector<float> wave;
  EXPECT_THROW(stream->push(std::vector<int32_t>{6561}, false, wave), Error);
  EXPECT_THROW(stream->push(std::vector<int32_t>{-1}, true, wave), Error);
  EXPECT_THROW(stream->window(tokens(36), false, wave), Error);
  EXPECT_EQ(stream->buffered(), 3);
  EXPECT_THROW(model->stream(*tiny_voice(), {.steps = 0}), Error);
  EXPECT_THROW(tiny({"auto", "neither"}), Error);
}

// A cosine of two turns in the window: half of the window's sum in its bin, a quarter, negative, beside it.
TEST(VocoderStft, FindsACosine) {
  std::vector<float> column(static_cast<size_t>(VocoderStft::kColumn));
  const auto cosine = [](int64_t i) {
    return static_cast<float>(std::cos(2 * std::numbers::pi * 2 * static_cast<double>(i) / 16));
  };
  analyse(cosine, 6, column.data());
  // Column 6 is centred on sample 24, so its window begins at sample 16: a whole number of turns.
  const std::array<float, 9> expected = {0, -2, 4, -2, 0, 0, 0, 0, 0};
  for (size_t k = 0; k < expected.size(); ++k) {
    EXPECT_NEAR(column[k], expected[k], 1e-5) << k;
    EXPECT_NEAR(column[9 + k], 0, 1e-5) << k;
  }
}

TEST(VocoderStft, ColumnsAddUpByTheDefinition) {
  constexpr size_t kColumns = 21;
  constexpr int64_t kSamples = 4 * (kColumns - 1);
  Random random(1);
  std::vector<float> columns(kColumns * static_cast<size_t>(VocoderStft::kColumn));
  for (float& x : columns) x = 0.5F * random.normal() - 1;
  Istft istft;
  std::vector<float> wave;
  for (size_t c = 0; c < kColumns; ++c) istft.push(columns.data() + c * VocoderStft::kColumn, wave);
  istft.finish(kSamples, wave);
  ASSERT_EQ(wave.size(), static_cast<size_t>(kSamples));
  for (int64_t i = 0; i < kSamples; ++i) {
    double sum = 0;
    double weight = 0;
    for (int64_t c = 0; c < static_cast<int64_t>(kColumns); ++c) {
      const int64_t j = i - (4 * c - 8);  // place in the column's window
      if (j < 0 || j >= 16) continue;
      const float* column = columns.data() + c * VocoderStft::kColumn;
      double x = 0;
      for (int k = 0; k < 16; ++k) {
        const int bin = k <= 8 ? k : 16 - k;
        const double magnitude = std::min(std::exp(double(column[bin])), 100.0);
        const double phase = std::sin(double(column[9 + bin])) * (k <= 8 ? 1 : -1);
        // The imaginary parts of the first and the middle bin have no meaning for real sound.
        const double turn = 2 * std::numbers::pi * k * static_cast<double>(j) / 16;
        x += bin == 0 || bin == 8 ? magnitude * std::cos(phase) * std::cos(turn)
                                  : magnitude * std::cos(phase + turn);
      }
      const double hann = 0.5 - 0.5 * std::cos(2 * std::numbers::pi * static_cast<double>(j) / 16);
      sum += hann * x / 16;
      weight += hann * hann;
    }
    EXPECT_NEAR(wave[static_cast<size_t>(i)], std::clamp(sum / weight, -0.99, 0.99), 1e-5) << i;
  }
}

TEST(BestStretch, HasTheLeastSilence) {
  constexpr int kRate = 1000;
  std::vector<float> sound(60 * kRate, 1e-4F);
  const auto fill = [&](double from, double to) {
    for (auto i = static_cast<size_t>(from * kRate); i < static_cast<size_t>(to * kRate); ++i) {
      sound[i] = i % 2 == 0 ? 0.3F : -0.3F;
    }
  };
  fill(5, 12);  // seven seconds, then much silence
  fill(31, 37);
  fill(38, 44.3);
  const Stretch best = best_stretch(sound, kRate, 15);
  // It ends in a pause.
  EXPECT_LE(best.n, 15U * kRate);
  EXPECT_GE(best.n, 12U * kRate);
  EXPECT_EQ(best.first, 31U * kRate);
  EXPECT_LT(std::abs(sound[best.first + best.n]), 0.01F);
  EXPECT_EQ(best_stretch(std::vector<float>(40 * kRate, 0.1F), kRate, 15).first, 0U);
}

}  // namespace
}  // namespace omni
