// tests/duplex_networks_test.cpp - the stages of a duplex session over small random networks.
#include "omni/duplex_networks.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "tiny_networks.h"
#include <gtest/gtest.h>

namespace omni {
namespace {

using duplex_test::kTinyWidth;
using duplex_test::tiny_networks;
using duplex_test::tiny_token2wav;
using duplex_test::tiny_voice;

constexpr size_t kRowsASecond = 10;
constexpr size_t kTokenSamples = 960;
constexpr size_t kDelay = 3840;  // samples by which a turn's sound follows its tokens

const DuplexNetworks& networks() {
  static const DuplexNetworks all = tiny_networks();
  return all;
}

DuplexStages make_stages(DuplexStageOptions options = {}) {
  options.logic.sampling.greedy = true;
  options.speech.greedy = true;
  options.sound.stream.steps = 2;
  return make_duplex_stages(networks(), options);
}

std::vector<float> second(int number) {
  std::vector<float> samples(static_cast<size_t>(kDuplexUnitSamples));
  for (size_t i = 0; i < samples.size(); ++i) {
    samples[i] = 0.3F * std::sin(0.001F * static_cast<float>((number + 3) * static_cast<int>(i)));
  }
  return samples;
}

Image picture(int width, int height) {
  Image image{width, height, std::vector<uint8_t>(size_t{3} * static_cast<size_t>(width * height))};
  std::iota(image.rgb.begin(), image.rgb.end(), uint8_t{0});
  return image;
}

std::vector<int32_t> tokens(size_t n, int32_t first = 7) {
  std::vector<int32_t> ids(n);
  for (size_t i = 0; i < n; ++i) ids[i] = first + 31 * static_cast<int32_t>(i);
  return ids;
}

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.code();
  }
  return ErrorCode::ok;
}

TEST(DuplexEncoder, GivesTenRowsASecond) {
  const auto encoder = make_stages().encoder;
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < 4; ++i) rows.push_back(encoder->encode({second(i), {}, {}, ""}).audio);
  for (const auto& r : rows) EXPECT_EQ(r.size(), kRowsASecond * kTinyWidth);
  // The same second again is heard after all the others.
  EXPECT_NE(encoder->encode({second(0), {}, {}, ""}).audio, rows[0]);
  encoder->reset();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(encoder->encode({second(i), {}, {}, ""}).audio, rows[i]);
}

TEST(DuplexEncoder, CutsEachPictureAsItIsTold) {
  const auto encoder = make_stages().encoder;
  const std::vector<Image> frames{picture(900, 450), picture(100, 80)};
  const auto counts = [&](std::vector<int> limits) {
    const auto unit = encoder->encode({{}, frames, std::move(limits), "ab"});
    EXPECT_EQ(unit.text_ids, duplex_test::tokenizer().encode("ab"));
    EXPECT_TRUE(unit.audio.empty());
    std::vector<size_t> slices;
    for (const auto& image : unit.images) {
      slices.push_back(image.size());
      for (const auto& slice : image) EXPECT_EQ(slice.size(), 64 * kTinyWidth);
    }
    return slices;
  };
  EXPECT_EQ(counts({}), (std::vector<size_t>{1, 1}));
  EXPECT_EQ(counts({2}), (std::vector<size_t>{3, 1}));
  EXPECT_EQ(counts({1, 2}), (std::vector<size_t>{1, 1}));
  EXPECT_EQ(counts({2, 1}), (std::vector<size_t>{3, 1}));
}

TEST(DuplexEncoder, IsAsItWasAfterBadInput) {
  const auto encoder = make_stages().encoder;
  const auto undisturbed = make_stages().encoder;
  const auto refuse = [&](DuplexUnitInput unit) {
    EXPECT_EQ(code_of([&] { encoder->encode(unit); }), ErrorCode::invalid_argument);
  };
  std::vector<float> bad = second(1);
  bad.back() = std::numeric_limits<float>::quiet_NaN();
  Image cut = picture(30, 30);
  cut.rgb.pop_back();
  for (int i = 0; i < 2; ++i) {
    refuse({});
    refuse({std::vector<float>(15999), {}, {}, ""});
    refuse({bad, {}, {}, ""});
    refuse({second(i), {cut}, {}, ""});
    refuse({second(i), {Image{}}, {}, ""});
    refuse({second(i), {picture(30, 30)}, {0}, ""});
    refuse({second(i), {picture(30, 30)}, {1, 1}, ""});
    refuse({second(i), {}, {}, "\xff"});
    EXPECT_EQ(encoder->encode({second(i), {}, {}, ""}).audio,
              undisturbed->encode({second(i), {}, {}, ""}).audio);
  }
}

TEST(DuplexStages, ASessionCanBePreparedAgain) {
  const DuplexStages stages = make_stages();
  const auto run = [&] {
    stages.encoder->reset();
    const std::vector<float> voice = stages.encoder->encode_reference(second(9));
    EXPECT_EQ(voice.size(), kRowsASecond * kTinyWidth);
    stages.decider->prepare({.prefix = "ab", .suffix = "c"}, voice);
    EXPECT_EQ(stages.decider->cache_length(), 13);
    std::vector<std::vector<int32_t>> ids;
    for (int i = 0; i < 5; ++i) {
      const int64_t before = stages.decider->cache_length();
      const auto unit = stages.encoder->encode({second(i), {}, {}, ""});
      const DuplexResult result = stages.decider->step(unit, i == 3);
      // <unit>, the sound, what was answered, and the ends.
      EXPECT_EQ(stages.decider->cache_length(),
                before + 1 + static_cast<int64_t>(kRowsASecond + result.ids.size()));
      if (i == 3) EXPECT_TRUE(result.is_listen && !stages.decider->turn_is_open());
      ids.push_back(result.ids);
    }
    return ids;
  };
  EXPECT_EQ(run(), run());
  EXPECT_EQ(stages.decider->cache_capacity(), 512);
}

TEST(DuplexStages, WithoutNetworksForThemThereIsNoSpeech) {
  DuplexNetworks some = networks();
  some.voice = nullptr;
  EXPECT_EQ(make_duplex_stages(some).speech, nullptr);
  EXPECT_EQ(make_duplex_stages(some).sound, nullptr);
  some.audio = nullptr;
  some.vision = nullptr;
  const auto stages = make_duplex_stages(some);
  EXPECT_EQ(code_of([&] { stages.encoder->encode({second(0), {}, {}, ""}); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] {
              stages.encoder->encode({{}, {picture(9, 9)}, {}, ""});
            }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([&] { stages.encoder->encode_reference(second(0)); }), ErrorCode::invalid_argument);
  EXPECT_EQ(stages.encoder->encode({{}, {}, {}, "a"}).text_ids.size(), 1U);
  some.language_model = nullptr;
  EXPECT_EQ(code_of([&] { make_duplex_stages(some); }), ErrorCode::invalid_argument);
}

TEST(DuplexStages, NetworksOfDifferentModelsAreRefused) {
  DuplexNetworks mixed = networks();
  mixed.audio = AudioEncoder::synthetic(
      {.type = "F32", .n_layers = 1, .width = 32, .n_heads = 2, .embed_width = 64}, {});
  EXPECT_EQ(code_of([&] { make_duplex_stages(mixed); }), ErrorCode::invalid_argument);
  mixed = networks();
  mixed.speech = SpeechModel::synthetic(
      {.type = "F32", .n_layers = 1, .width = 32, .llm_width = 64, .n_heads = 2, .ffn_width = 32});
  EXPECT_EQ(code_of([&] { make_duplex_stages(mixed); }), ErrorCode::invalid_argument);
}

// A unit whose text was `n` tokens.
DuplexResult spoken(size_t n, bool end_of_turn) {
  DuplexResult unit;
  unit.is_listen = false;
  unit.end_of_turn = end_of_turn;
  for (size_t i = 0; i < n; ++i) unit.spoken_ids.push_back(static_cast<int32_t>(20 + i));
  unit.spoken_hidden.assign(n * kTinyWidth, 0.0F);
  for (size_t i = 0; i < unit.spoken_hidden.size(); ++i) {
    unit.spoken_hidden[i] = std::cos(static_cast<float>(i));
  }
  return unit;
}

TEST(DuplexSpeech, AnInterruptedTurnLeavesNothingBehind) {
  const auto speech = make_stages().speech;
  std::vector<int32_t> first;
  std::vector<int32_t> middle;
  std::vector<int32_t> again;
  speech->speak(spoken(4, false), first);
  EXPECT_LE(first.size(), 25U);
  speech->speak(spoken(3, false), middle);
  EXPECT_EQ(middle.size(), 25U);
  speech->cancel();
  speech->speak(spoken(4, false), again);
  EXPECT_EQ(again, first);
  speech->speak(spoken(0, true), again);
  EXPECT_LE(again.size(), 25U);
  speech->speak(spoken(4, false), again);
  EXPECT_EQ(again, first);
  EXPECT_EQ(code_of([&] { speech->speak({.spoken_ids = {1}, .spoken_hidden = {1}}, again); }),
            ErrorCode::invalid_argument);
}

class TokenWindowsTest : public testing::Test {
 protected:
  std::vector<float> render(DuplexSound& sound, size_t n, bool starts, bool ends) {
    std::vector<float> wave{9.0F};  // is replaced
    sound.render(tokens(n), starts, ends, wave);
    EXPECT_TRUE(std::ranges::all_of(wave, [](float v) { return std::isfinite(v); }));
    return wave;
  }

  std::shared_ptr<Token2Wav> model = tiny_token2wav();
  DuplexSoundOptions options{.stream = {.steps = 2}};
};

TEST_F(TokenWindowsTest, AWholeTurn) {
  TokenWindows sound(model, tiny_voice(), options);
  for (int turn = 0; turn < 2; ++turn) {
    EXPECT_EQ(render(sound, 5, true, false).size(), 5 * kTokenSamples);
    EXPECT_EQ(render(sound, 25, false, false).size(), 25 * kTokenSamples);
    EXPECT_EQ(render(sound, 10, false, false).size(), 0U);
    EXPECT_EQ(sound.buffered().size(), 13U);
    EXPECT_EQ(render(sound, 25, false, false).size(), 25 * kTokenSamples);
    EXPECT_EQ(render(sound, 4, false, true).size(), 17 * kTokenSamples + kDelay);
    EXPECT_EQ(std::vector<int32_t>(sound.buffered().begin(), sound.buffered().end()),
              std::vector<int32_t>(3, 4218));
  }
  // Too few to start with wait; a whole last unit takes a window and what is left.
  EXPECT_EQ(render(sound, 4, true, false).size(), 0U);
  EXPECT_EQ(render(sound, 25, false, true).size(), 32 * kTokenSamples + kDelay);
  // A turn of one unit.
  EXPECT_EQ(render(sound, 4, true, true).size(), 7 * kTokenSamples);
}

TEST_F(TokenWindowsTest, FlushesEveryUnitIfToldSo) {
  options.flush_every_unit = true;
  TokenWindows sound(model, tiny_voice(), options);
  EXPECT_EQ(render(sound, 25, true, false).size(), 25 * kTokenSamples);
  EXPECT_EQ(render(sound, 10, false, false).size(), 10 * kTokenSamples);
  EXPECT_EQ(render(sound, 4, false, false).size(), 0U);
  EXPECT_EQ(render(sound, 5, false, true).size(), 12 * kTokenSamples + kDelay);
}

TEST_F(TokenWindowsTest, AnInterruptedTurnLeavesNothingBehind) {
  TokenWindows sound(model, tiny_voice(), options);
  const std::vector<float> first = render(sound, 25, true, false);
  render(sound, 25, false, false);
  sound.cancel();
  sound.cancel();
  EXPECT_EQ(render(sound, 25, true, false), first);
}

TEST_F(TokenWindowsTest, RefusesWhatIsNoSpeechToken) {
  TokenWindows sound(model, tiny_voice(), options);
  TokenWindows undisturbed(model, tiny_voice(), options);
  render(sound, 10, true, false);
  render(undisturbed, 10, true, false);
  std::vector<float> wave;
  for (const int32_t bad : {-1, 6561, 1 << 30}) {
    EXPECT_EQ(code_of([&] {
                sound.render(std::vector<int32_t>{1, bad}, false, false, wave);
              }),
              ErrorCode::invalid_argument);
  }
  EXPECT_EQ(render(sound, 25, false, false), render(undisturbed, 25, false, false));
}

TEST_F(TokenWindowsTest, ACopyGoesOnByItself) {
  for (const char* vocoder : {"causal", "original"}) {
    model = tiny_token2wav(vocoder);
    TokenWindows sound(model, tiny_voice(), options);
    render(sound, 20, true, false);
    render(sound, 25, false, false);
    const auto copy = sound.clone();
    const std::vector<float> middle = render(sound, 25, false, false);
    const std::vector<float> end = render(sound, 9, false, true);
    const std::vector<float> next = render(sound, 25, true, false);
    EXPECT_EQ(render(*copy, 25, false, false), middle) << vocoder;
    const auto other = copy->clone();
    copy->cancel();
    EXPECT_EQ(render(*other, 9, false, true), end) << vocoder;
    EXPECT_EQ(render(*other, 25, true, false), next) << vocoder;
    EXPECT_TRUE(other->set_steps(1));
  }
}

TEST_F(TokenWindowsTest, StepsChangeBetweenTurns) {
  options.other_steps = {1};
  TokenWindows sound(model, tiny_voice(), options);
  options.stream.steps = 1;
  TokenWindows fast(model, tiny_voice(), options);
  EXPECT_EQ(sound.steps(), 2);
  const std::vector<float> first = render(sound, 25, true, false);
  EXPECT_TRUE(sound.set_steps(1));
  EXPECT_FALSE(sound.set_steps(0));
  EXPECT_EQ(sound.steps(), 1);
  TokenWindows slow(model, tiny_voice(), {.stream = {.steps = 2}});
  render(slow, 25, true, false);
  EXPECT_EQ(render(sound, 25, false, true), render(slow, 25, false, true));
  const std::vector<float> next = render(sound, 25, true, false);
  EXPECT_NE(next, first);
  EXPECT_EQ(next, render(fast, 25, true, false));
}

}  // namespace
}  // namespace omni
