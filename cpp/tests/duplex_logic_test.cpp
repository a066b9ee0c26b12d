// tests/duplex_logic_test.cpp - the full-duplex state machine against a model that follows a script.
#include "omni/duplex.h"
#include "omni/error.h"

#include <deque>
#include <map>

#include "base/random.h"
#include "duplex_vocabulary.h"
#include <gtest/gtest.h>

namespace omni {
namespace {

using duplex_test::id;
using duplex_test::tokenizer;
using duplex_test::tokens;

// Embedding rows are the token's id, so the cache can be read back as a sequence; -1 stands for pictures and
// sound.
class ScriptedModel : public SessionModel {
 public:
  explicit ScriptedModel(int64_t capacity = 1000) : capacity_(capacity) {}
  int64_t width() const override { return 1; }
  int32_t n_vocab() const override { return static_cast<int32_t>(tokens().size()); }
  int64_t length() const override { return length_; }
  int64_t capacity() const override { return capacity_; }
  void embed(std::span<const int32_t> ids, std::span<float> out) const override {
    for (size_t i = 0; i < ids.size(); ++i) out[i] = static_cast<float>(ids[i]);
  }
  Output forward(std::span<const float> embeds, int64_t logits_row) override {
    if (fail_at == ++forwards) fail(ErrorCode::device, "lost");
    require(length_ + static_cast<int64_t>(embeds.size()) <= capacity_, ErrorCode::context_full, "full");
    rows.resize(std::max(rows.size(), static_cast<size_t>(length_) + embeds.size()));
    for (const float e : embeds) rows[static_cast<size_t>(length_++)] = static_cast<int32_t>(e);
    hidden_ = embeds.back() + 0.5F;  // tells which token it belongs to
    if (logits_row < 0) return {{}, {&hidden_, 1}};
    logits_.assign(tokens().size(), 0.0F);
    const std::string next = script.empty() ? "<|listen|>" : script.front();
    if (!script.empty()) script.pop_front();
    logits_[static_cast<size_t>(id(next))] = 10.0F;
    return {logits_, {&hidden_, 1}};
  }
  void reset() override {
    rows.clear();
    length_ = 0;
  }
  void truncate(int64_t length) override { length_ = length; }
  void extend(int64_t length) override {
    require(length <= static_cast<int64_t>(rows.size()), ErrorCode::internal, "extended over unwritten rows");
    length_ = length;
  }
  void remove(int64_t first, int64_t count) override {
    rows.erase(rows.begin() + first, rows.begin() + first + count);
    length_ -= count;
  }
  void move(int64_t first, int64_t count, int64_t target) override {
    const std::vector<int32_t> kept(rows.begin() + first, rows.begin() + first + count);
    rows.resize(std::max(rows.size(), static_cast<size_t>(target + count)), -2);
    std::copy(kept.begin(), kept.end(), rows.begin() + target);
  }

  // The cache as text; embeddings as dots.
  std::string text() const {
    std::string out;
    for (int64_t i = 0; i < length_; ++i) {
      const int32_t row = rows[static_cast<size_t>(i)];
      out += row < 0 ? "." : tokens()[static_cast<size_t>(row)];
    }
    return out;
  }

  std::deque<std::string> script;
  std::vector<int32_t> rows;
  int forwards = 0;
  int fail_at = 0;

 private:
  int64_t capacity_;
  int64_t length_ = 0;
  float hidden_ = 0;
  std::vector<float> logits_;
};

class DuplexLogicTest : public testing::Test {
 protected:
  DuplexLogic& start(DuplexOptions options = {}) {
    options.sampling.greedy = true;
    options.sampling.repetition_penalty = 1;
    options.sampling.length_penalty = 1;
    logic_ = std::make_unique<DuplexLogic>(model, tokenizer(), options);
    logic_->prepare("ab", {}, "c", "d");
    return *logic_;
  }
  // One unit of sound; `script` is what the model would say from then on.
  DuplexResult unit(std::deque<std::string> script, bool force_listen = false) {
    model.script = std::move(script);
    logic_->prefill({{}, kAudio, {}});
    return logic_->generate(force_listen);
  }

  static constexpr float kRow = -1;
  const std::vector<float> kAudio = std::vector<float>(3, kRow);
  ScriptedModel model;

 private:
  std::unique_ptr<DuplexLogic> logic_;
};

TEST_F(DuplexLogicTest, ListensAndFeedsTheEndOfTheUnit) {
  start();
  const DuplexResult r = unit({"<|listen|>"});
  EXPECT_TRUE(r.is_listen);
  EXPECT_FALSE(r.end_of_turn);
  EXPECT_EQ(r.text, "");
  EXPECT_EQ(model.text(), "abc<unit>...<|listen|></unit>");
}

TEST_F(DuplexLogicTest, SpeaksAWholeTurn) {
  DuplexLogic& logic = start();
  DuplexResult r = unit({"<|speak|>", "a", "b", "<|chunk_eos|>"});
  EXPECT_FALSE(r.is_listen);
  EXPECT_TRUE(r.starts_turn);
  EXPECT_FALSE(r.end_of_turn);
  EXPECT_EQ(r.text, "ab");
  EXPECT_EQ(r.spoken_ids, (std::vector<int32_t>{id("a"), id("b")}));
  // Each hidden state is that of its own token as input, not the one that predicted it.
  EXPECT_EQ(r.spoken_hidden,
            (std::vector<float>{static_cast<float>(id("a")) + 0.5F, static_cast<float>(id("b")) + 0.5F}));
  EXPECT_TRUE(logic.turn_is_open());
  r = unit({"<|speak|>", "c", "<|turn_eos|>", "<|chunk_eos|>"});
  EXPECT_FALSE(r.starts_turn);
  EXPECT_TRUE(r.end_of_turn);
  EXPECT_EQ(r.text, "c");
  // The end of the turn is forwarded and conditions speech like any other token.
  EXPECT_EQ(r.spoken_ids.back(), id("<|turn_eos|>"));
  EXPECT_FALSE(logic.turn_is_open());
  EXPECT_EQ(model.text(),
            "abc<unit>...<|speak|>ab<|chunk_eos|></unit><unit>...<|speak|>c<|turn_eos|><|chunk_eos|></unit>");
}

TEST_F(DuplexLogicTest, AnOpenTurnCannotListen) {
  start();
  unit({"<|speak|>", "a", "<|chunk_eos|>"});
  const DuplexResult r = unit({"<|listen|>", "b", "<|turn_eos|>", "<|chunk_eos|>"});
  EXPECT_FALSE(r.is_listen);
  EXPECT_EQ(r.text, "b");
  EXPECT_EQ(r.ids.front(), id("<|tts_bos|>"));
  EXPECT_TRUE(unit({"<|listen|>"}).is_listen);
}

TEST_F(DuplexLogicTest, TheFirstTokenIsNeverSpoken) {
  start();
  const DuplexResult r = unit({"a", "b", "<|chunk_tts_eos|>"});
  EXPECT_EQ(r.text, "b");
  EXPECT_EQ(model.text(), "abc<unit>...ab<|chunk_tts_eos|></unit>");
}

TEST_F(DuplexLogicTest, AUnitHasALimit) {
  DuplexOptions options;
  options.max_new_speak_tokens_per_chunk = 5;
  start(options);
  const DuplexResult r = unit({"<|speak|>", "a", "b", "c", "d", "a"});
  EXPECT_EQ(r.text, "abc");
  EXPECT_EQ(model.text(), "abc<unit>...<|speak|>abc<|chunk_eos|></unit>");
}

TEST_F(DuplexLogicTest, ListensAtFirstIfToldTo) {
  DuplexOptions options;
  options.force_listen_count = 2;
  start(options);
  EXPECT_TRUE(unit({"<|speak|>", "a"}).is_listen);
  EXPECT_TRUE(unit({"<|speak|>", "a"}).is_listen);
  EXPECT_FALSE(unit({"<|speak|>", "a", "<|chunk_eos|>"}).is_listen);
}

TEST_F(DuplexLogicTest, ForcedListeningClosesTheTurn) {
  DuplexLogic& logic = start();
  unit({"<|speak|>", "a", "<|chunk_eos|>"});
  const DuplexResult r = unit({"b"}, true);
  EXPECT_TRUE(r.is_listen);
  EXPECT_TRUE(r.end_of_turn);
  EXPECT_FALSE(logic.turn_is_open());
  EXPECT_EQ(model.text(), "abc<unit>...<|speak|>a<|chunk_eos|></unit><unit>...<|turn_eos|><|listen|></unit>");
}

TEST_F(DuplexLogicTest, EndingATurnByListeningKeepsItsText) {
  start();
  const DuplexResult fixed = unit({"<|speak|>", "a", "<|turn_eos|>", "<|listen|>"});
  EXPECT_FALSE(fixed.is_listen);
  EXPECT_TRUE(fixed.end_of_turn);
  EXPECT_EQ(fixed.text, "a");
  DuplexOptions options;
  options.reference_quirks = true;
  start(options);
  const DuplexResult reference = unit({"<|speak|>", "a", "<|turn_eos|>", "<|listen|>"});
  EXPECT_TRUE(reference.is_listen);
  EXPECT_EQ(reference.text, "");
}

TEST_F(DuplexLogicTest, PicturesAndSlicesAreWrapped) {
  DuplexLogic& logic = start();
  const std::vector<float> image(2, kRow);
  model.script = {"<|listen|>"};
  logic.prefill({{{image, image}, {image}}, kAudio, {}});
  logic.generate();
  EXPECT_EQ(model.text(), "abc<unit><image>..</image><slice>..</slice><image>..</image>...<|listen|></unit>");
  EXPECT_EQ(logic.schema(),
            "<unit><image>[img_embed_2]</image><slice>[img_embed_2]</slice><image>[img_embed_2]</image>"
            "[audio_embed_3]<|listen|></unit>");
}

TEST_F(DuplexLogicTest, DeferredEndIsFedByFinalize) {
  DuplexOptions options;
  options.deferred_finalize = true;
  DuplexLogic& logic = start(options);
  unit({"<|listen|>"});
  EXPECT_EQ(model.text(), "abc<unit>...");
  EXPECT_THROW(logic.prefill({{}, kAudio, {}}), Error);
  logic.finalize();
  logic.finalize();
  EXPECT_EQ(model.text(), "abc<unit>...<|listen|></unit>");
  EXPECT_EQ(logic.units().size(), 1U);
}

TEST_F(DuplexLogicTest, CharactersOfAUnitAreLimited) {
  DuplexOptions options;
  options.max_unit_characters = 3;
  start(options);
  const DuplexResult r = unit({"<|speak|>", "a", "b", "c", "d"});
  EXPECT_EQ(r.text, "ab");
  EXPECT_EQ(model.text(), "abc<unit>...<|speak|>ab<|chunk_eos|></unit>");
}

TEST_F(DuplexLogicTest, BadInputLeavesTheCacheAlone) {
  DuplexLogic& logic = start();
  EXPECT_THROW(logic.prefill({}), Error);
  EXPECT_THROW(logic.prefill({{{}}, kAudio, {}}), Error);
  EXPECT_EQ(model.text(), "abc");
  EXPECT_TRUE(logic.generate().is_listen);
  EXPECT_EQ(model.text(), "abc");
  model.fail_at = model.forwards + 1;
  EXPECT_THROW(logic.prefill({{}, kAudio, {}}), Error);
  EXPECT_EQ(model.text(), "abc");
  EXPECT_TRUE(unit({"<|listen|>"}).is_listen);
}

TEST_F(DuplexLogicTest, AFullContextIsSaidBeforeTheUnitBegins) {
  model = ScriptedModel(3 + 4 + 22);
  DuplexLogic& logic = start();
  unit({"<|listen|>"});
  try {
    logic.prefill({{}, kAudio, {}});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::context_full);
  }
  EXPECT_EQ(model.text(), "abc<unit>...<|listen|></unit>");
}

TEST_F(DuplexLogicTest, BreakAndStop) {
  DuplexLogic& logic = start();
  unit({"<|speak|>", "a", "<|chunk_eos|>"});
  logic.set_break(true);
  EXPECT_THROW(logic.prefill({{}, kAudio, {}}), Error);
  const DuplexResult r = logic.generate();
  EXPECT_TRUE(r.is_listen);
  EXPECT_TRUE(r.end_of_turn);
  EXPECT_TRUE(logic.turn_is_open());
  logic.set_break(false);
  EXPECT_EQ(unit({"<|speak|>", "b", "<|turn_eos|>", "<|chunk_eos|>"}).text, "b");
  logic.stop();
  EXPECT_THROW(logic.prefill({{}, kAudio, {}}), Error);
  logic.prepare("ab", {}, "c");
  EXPECT_TRUE(unit({"<|listen|>"}).is_listen);
}

TEST_F(DuplexLogicTest, ASnapshotIsGoneOnFrom) {
  DuplexOptions options;
  options.force_listen_count = 2;
  options.sliding_window_mode = WindowMode::context;
  options.context_max_units = 2;
  DuplexLogic& logic = start(options);
  unit({});
  unit({});
  unit({"<|speak|>", "a", "b", "<|chunk_eos|>"});
  logic.prefill({{}, kAudio, {}});
  const auto snapshot = logic.save();
  const ScriptedModel then = model;
  for (int i = 0; i < 2; ++i) {
    model.script = {"c", "<|turn_eos|>", "<|chunk_eos|>"};
    EXPECT_TRUE(logic.generate().end_of_turn);
    unit({"<|listen|>"});
    unit({"<|listen|>"});
    EXPECT_EQ(model.text(), "abdabcc<unit>...<|listen|></unit><unit>...<|listen|></unit>");
    EXPECT_EQ(logic.unit_schemas().size(), 6U);
    logic.prepare("d", {}, "d");
    model = then;
    logic.restore(*snapshot);
    EXPECT_TRUE(logic.turn_is_open());
  }
}

TEST_F(DuplexLogicTest, AWindowMakesRoomBeforeTheContextIsFull) {
  for (const WindowMode mode : {WindowMode::basic, WindowMode::context}) {
    model = ScriptedModel(3 + 8 * 6 + 22);
    DuplexOptions options;
    options.sliding_window_mode = mode;
    DuplexLogic& logic = start(options);
    for (int i = 0; i < 30; ++i) {
      // Speaking all the time: no listening unit lets the window slide.
      unit({"<|speak|>", "a", "<|chunk_eos|>"});
      EXPECT_LE(model.length(), model.capacity());
      EXPECT_EQ(model.text().substr(0, 2), "ab");
    }
    EXPECT_GE(logic.units().size(), 3U);
  }
}

TEST_F(DuplexLogicTest, TheLimitOfAnAnswerCanChange) {
  DuplexLogic& logic = start();
  logic.set_max_new_speak_tokens(3);
  EXPECT_EQ(unit({"<|speak|>", "a", "b", "c"}).text, "a");
  EXPECT_THROW(logic.set_max_new_speak_tokens(0), Error);
  logic.prefill({{}, kAudio, {}});
  logic.set_max_new_speak_tokens(5000);
  EXPECT_THROW(logic.generate(), Error);
  logic.set_max_new_speak_tokens(20);
  model.script = {"b", "<|chunk_eos|>"};
  logic.generate();
  EXPECT_FALSE(logic.units().empty());
}

TEST_F(DuplexLogicTest, BasicWindowDropsTheOldestUnits) {
  DuplexOptions options;
  options.sliding_window_mode = WindowMode::basic;
  options.basic_window_high_tokens = 20;
  options.basic_window_low_tokens = 15;
  DuplexLogic& logic = start(options);
  for (int i = 0; i < 2; ++i) unit({"<|listen|>"});
  EXPECT_EQ(model.length(), 3 + 2 * 6);
  unit({"<|listen|>"});
  EXPECT_EQ(model.length(), 3 + 2 * 6);
  EXPECT_EQ(logic.units().size(), 2U);
  EXPECT_EQ(model.text().substr(0, 3), "abc");
}

TEST_F(DuplexLogicTest, TheWindowWaitsForAListeningUnit) {
  DuplexOptions options;
  options.sliding_window_mode = WindowMode::basic;
  options.basic_window_high_tokens = 10;
  options.basic_window_low_tokens = 10;
  DuplexLogic& logic = start(options);
  unit({"<|speak|>", "a", "<|chunk_eos|>"});
  unit({"<|speak|>", "b", "<|turn_eos|>", "<|chunk_eos|>"});
  EXPECT_EQ(logic.units().size(), 2U);
  unit({"<|listen|>"});
  EXPECT_EQ(logic.units().size(), 1U);
  options.reference_quirks = true;
  DuplexLogic& reference = start(options);
  unit({"<|speak|>", "a", "<|chunk_eos|>"});
  EXPECT_EQ(reference.units().size(), 0U);
}

TEST_F(DuplexLogicTest, ContextWindowKeepsWhatWasSaid) {
  DuplexOptions options;
  options.sliding_window_mode = WindowMode::context;
  options.context_max_units = 1;
  options.context_previous_max_tokens = 3;
  DuplexLogic& logic = start(options);
  unit({"<|speak|>", "a", "b", "<|turn_eos|>", "<|chunk_eos|>"});
  unit({"<|listen|>"});
  EXPECT_EQ(model.text(), "abdabc<unit>...<|listen|></unit>");
  unit({"<|listen|>"});
  EXPECT_EQ(model.text(), "abdabc<unit>...<|listen|></unit>");
  unit({"<|speak|>", "c", "d", "<|turn_eos|>", "<|chunk_eos|>"});
  unit({"<|listen|>"});
  // Three tokens are kept, the oldest went, the marker stays.
  EXPECT_EQ(model.text(), "abdbcdc<unit>...<|listen|></unit>");
  EXPECT_EQ(logic.protected_rows(), 7);
}

// Whatever the model says: the cache is the prompt and whole units, the books agree with it, turns alternate.
TEST_F(DuplexLogicTest, RandomScripts) {
  const std::vector<std::string> words = {"a",
                                          "b",
                                          "<|listen|>",
                                          "<|speak|>",
                                          "<|chunk_eos|>",
                                          "<|chunk_tts_eos|>",
                                          "<|turn_eos|>",
                                          "<|tts_bos|>",
                                          "<|im_end|>"};
  Random random(7);
  const auto draw = [&](size_t n) { return static_cast<size_t>(random.uniform() * static_cast<double>(n)); };
  for (int round = 0; round < 200; ++round) {
    DuplexOptions options;
    options.max_new_speak_tokens_per_chunk = 1 + static_cast<int>(draw(8));
    options.sliding_window_mode = static_cast<WindowMode>(draw(3));
    options.basic_window_high_tokens = 40;
    options.basic_window_low_tokens = 25;
    options.context_max_units = 1 + static_cast<int64_t>(draw(4));
    options.context_previous_max_tokens = static_cast<int64_t>(draw(6));
    options.reference_quirks = draw(2) == 0;
    options.deferred_finalize = draw(2) == 0;
    DuplexLogic& logic = start(options);
    for (int i = 0; i < 20; ++i) {
      std::deque<std::string> script;
      for (int k = 0; k < 10; ++k) script.push_back(words[draw(words.size())]);
      const bool was_open = logic.turn_is_open();
      const bool force = draw(8) == 0;
      const DuplexResult r = unit(script, force);
      EXPECT_TRUE(!(r.starts_turn && was_open && !force));
      EXPECT_EQ(r.spoken_hidden.size(), r.spoken_ids.size());
      EXPECT_LE(static_cast<int>(r.ids.size()), options.max_new_speak_tokens_per_chunk + 2);
      for (size_t k = 0; k < r.spoken_ids.size(); ++k) {
        EXPECT_EQ(r.spoken_hidden[k], static_cast<float>(r.spoken_ids[k]) + 0.5F);
      }
      if (r.is_listen) {
        EXPECT_EQ(r.text, "");
      }
      logic.finalize();
      int64_t rows = logic.protected_rows();
      for (const DuplexUnit& u : logic.units()) rows += u.rows;
      ASSERT_EQ(rows, model.length());
      int64_t at = logic.protected_rows();
      for (const DuplexUnit& u : logic.units()) {
        EXPECT_EQ(model.rows[static_cast<size_t>(at)], id("<unit>"));
        at += u.rows;
        EXPECT_EQ(model.rows[static_cast<size_t>(at) - 1], id("</unit>"));
      }
    }
  }
}

}  // namespace
}  // namespace omni
