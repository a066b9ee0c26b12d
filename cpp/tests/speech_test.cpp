// Streams of a speech model with random weights: what they count, what they refuse, and that they end.
#include "omni/speech.h"

#include "omni/error.h"

#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>

namespace omni {
namespace {

constexpr int64_t kStates = 64;  // width of the hidden states

std::shared_ptr<SpeechModel> small_model(int n_ctx = 256) {
  const SyntheticSpeechModel sizes{.type = "F32",
                                   .n_layers = 2,
                                   .width = 64,
                                   .llm_width = kStates,
                                   .n_heads = 2,
                                   .ffn_width = 128,
                                   .n_codes = 100,
                                   .n_text = 50};
  return SpeechModel::synthetic(sizes, {.n_ctx = n_ctx, .device = {.n_threads = 1}});
}

struct Text {
  explicit Text(size_t n) : ids(n), hidden(n * kStates) {
    std::iota(ids.begin(), ids.end(), 0);
    for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = static_cast<float>(i % 7) - 3;
  }
  std::vector<int32_t> ids;
  std::vector<float> hidden;
};

std::vector<int32_t> speak(SpeechStream& stream, const Text& text, bool last) {
  stream.push(text.ids, text.hidden, last);
  std::vector<int32_t> all;
  std::vector<int32_t> tokens;
  while (stream.next(tokens)) {
    EXPECT_LE(tokens.size(), 25U);
    all.insert(all.end(), tokens.begin(), tokens.end());
  }
  EXPECT_FALSE(stream.next(tokens));
  EXPECT_TRUE(std::ranges::all_of(all, [](int32_t id) { return id >= 0 && id < 99; }));
  return all;
}

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& e) {
    return e.code();
  }
  return ErrorCode::ok;
}

TEST(SpeechStream, EveryAttentionGoesOnPastTheWindow) {
  const auto model = small_model();
  for (const auto attention : {SpeechAttention::full, SpeechAttention::sliding_window,
                               SpeechAttention::sliding_recompute, SpeechAttention::reindex}) {
    const auto stream = model->stream({.mode = SpeechMode::simplex,
                                       .seed = 7,
                                       .min_tokens = 60,
                                       .max_tokens = 60,
                                       .attention = attention,
                                       .window = 100});
    // 10 blocks of 71 rows and more, many times the 256 of the cache.
    EXPECT_EQ(speak(*stream, Text(47), false).size(), 225U);  // 240, 15 wait
    EXPECT_EQ(speak(*stream, Text(48), true).size(), 375U);
    EXPECT_EQ(stream->position(), 0);
  }
}

TEST(SpeechStream, UnitsOfATurn) {
  const auto model = small_model(64);
  const auto stream = model->stream({.seed = 3});
  for (int unit = 0; unit < 20; ++unit) {
    const size_t n = speak(*stream, Text(static_cast<size_t>(unit) % 3), false).size();
    if (unit > 0) EXPECT_EQ(n, 25U);
    EXPECT_LE(stream->n_cached(), 256);
  }
  EXPECT_LE(speak(*stream, Text(4), true).size(), 25U);
  EXPECT_EQ(stream->position(), 0);
}

TEST(SpeechStream, ACopyGoesOnByItself) {
  const auto model = small_model();
  const auto stream = model->stream({.seed = 3});
  speak(*stream, Text(4), false);
  stream->push(Text(3).ids, Text(3).hidden, false);
  std::vector<int32_t> expected;
  std::unique_ptr<SpeechStream> copy;
  {
    const auto snapshot = stream->clone();  // in the middle of a unit that waits
    stream->next(expected);
    const std::vector<int32_t> more = speak(*stream, Text(2), true);
    expected.insert(expected.end(), more.begin(), more.end());
    copy = snapshot->clone();
    snapshot->reset();
  }
  std::vector<int32_t> again;
  copy->next(again);
  const std::vector<int32_t> more = speak(*copy, Text(2), true);
  again.insert(again.end(), more.begin(), more.end());
  EXPECT_EQ(again, expected);
  copy->reset();
  stream->reset();
  EXPECT_EQ(speak(*copy, Text(4), false), speak(*stream, Text(4), false));
}

TEST(SpeechStream, OutlivesItsModel) {
  const auto stream = small_model()->stream({.mode = SpeechMode::chat, .max_tokens = 60});
  EXPECT_GE(speak(*stream, Text(3), true).size(), 50U);
}

TEST(SpeechStream, RefusesWhatComesTooEarly) {
  const auto model = small_model();
  const Text text(3);
  const auto duplex = model->stream({.seed = 1});
  duplex->push(text.ids, text.hidden, false);
  EXPECT_EQ(code_of([&] { duplex->push(text.ids, text.hidden, false); }), ErrorCode::invalid_argument);
  const auto chat = model->stream({.mode = SpeechMode::chat, .max_tokens = 60});
  chat->push(text.ids, text.hidden, true);
  EXPECT_EQ(code_of([&] { chat->push(text.ids, text.hidden, true); }), ErrorCode::invalid_argument);
  chat->reset();
  chat->push(text.ids, text.hidden, true);
  const Text large(48);
  chat->reset();
  for (int i = 0; i < 4; ++i) chat->push(large.ids, large.hidden, false);
  EXPECT_EQ(code_of([&] { chat->push(large.ids, large.hidden, true); }), ErrorCode::context_full);
}

TEST(SpeechModel, RefusesImpossibleSizes) {
  EXPECT_EQ(code_of([] { SpeechModel::synthetic({.width = 100, .n_heads = 7}); }),
            ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([] { SpeechModel::synthetic({.type = "F12"}); }), ErrorCode::invalid_argument);
  EXPECT_EQ(code_of([] { SpeechModel::open("/no/such/file", ""); }), ErrorCode::file);
}

}  // namespace
}  // namespace omni
