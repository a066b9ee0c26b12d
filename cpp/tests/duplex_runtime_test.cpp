// The session that runs by itself, over scripted stages: order, interruption, falling behind, failures, ends.
#include "omni/duplex_session.h"
#include "omni/error.h"

#include <array>
#include <atomic>
#include <chrono>
#include <limits>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runtime/bounded_queue.h"
#include "runtime/degradation.h"
#include "runtime/scripted_stages.h"
#include <gtest/gtest.h>

namespace omni {
namespace {

using namespace std::chrono_literals;
using Poll = DuplexSession::Poll;

constexpr auto kBound = 20s;  // far longer than anything here takes: a hang is a failure

std::vector<float> sound_of(int64_t units, float value = 0.1F) {
  return std::vector<float>(static_cast<size_t>(units * kDuplexUnitSamples), value);
}

template <typename T>
const T* get(const DuplexEvent& event) {
  return std::get_if<T>(&event.what);
}

// All events until the end.
std::vector<DuplexEvent> read_all(DuplexSession& session) {
  std::vector<DuplexEvent> events;
  const auto deadline = std::chrono::steady_clock::now() + kBound;
  while (std::chrono::steady_clock::now() < deadline) {
    DuplexEvent event;
    const Poll found = session.poll(event, 100ms);
    if (found == Poll::end) return events;
    if (found == Poll::event) events.push_back(std::move(event));
  }
  ADD_FAILURE() << "the session doesn't end";
  return events;
}

// Until an event of that type, which is returned.
template <typename T>
DuplexEvent read_until(DuplexSession& session) {
  DuplexEvent event;
  const auto deadline = std::chrono::steady_clock::now() + kBound;
  while (std::chrono::steady_clock::now() < deadline) {
    if (session.poll(event, 100ms) == Poll::event && get<T>(event) != nullptr) return event;
  }
  ADD_FAILURE() << "the event doesn't come";
  return event;
}

DuplexSessionOptions offline() {
  DuplexSessionOptions options;
  options.real_time = false;
  return options;
}

DuplexScript script_of(std::vector<ScriptedUnit> units) {
  DuplexScript script;
  script.units = std::move(units);
  script.samples_per_unit = 100;
  return script;
}

const ScriptedUnit kListens{};

// What holds for every course of events.
void check_course(const std::vector<DuplexEvent>& events) {
  bool speaking = false;
  bool open = false;
  bool sounded = false;
  int64_t epoch = 0;
  int64_t last_unit = -1;
  double time = 0;
  std::set<int64_t> said;
  std::set<int64_t> sounds;
  for (const DuplexEvent& event : events) {
    EXPECT_GE(event.time, time);
    time = event.time;
    if (const auto* unit = get<DuplexUnitEvent>(event)) {
      EXPECT_GT(event.unit, last_unit);
      last_unit = event.unit;
      EXPECT_GE(unit->latency_ms, 0);
      continue;
    }
    EXPECT_GE(event.epoch, epoch);
    epoch = std::max(epoch, event.epoch);
    if (const auto* state = get<DuplexStateEvent>(event)) {
      EXPECT_NE(state->speaking, speaking) << "states are told on change only";
      speaking = state->speaking;
      if (speaking) {
        open = true;
        sounded = false;
      }
    } else if (get<DuplexTextEvent>(event) != nullptr) {
      EXPECT_TRUE(speaking && open);
      EXPECT_TRUE(said.insert(event.unit).second) << "text of unit " << event.unit << " twice";
    } else if (const auto* audio = get<DuplexAudioEvent>(event)) {
      EXPECT_TRUE(speaking && open);
      EXPECT_TRUE(said.contains(event.unit)) << "sound before its text";
      EXPECT_TRUE(sounds.insert(event.unit).second);
      EXPECT_EQ(audio->first, !sounded);
      sounded = true;
      EXPECT_FALSE(audio->samples.empty());
    } else if (get<DuplexTurnEndEvent>(event) != nullptr) {
      EXPECT_TRUE(open) << "a turn ends once";
      open = false;
    }
  }
  EXPECT_FALSE(speaking);
  EXPECT_FALSE(open);
}

template <typename T>
std::vector<T> of_type(const std::vector<DuplexEvent>& events) {
  std::vector<T> found;
  for (const DuplexEvent& event : events) {
    if (const auto* what = get<T>(event)) found.push_back(*what);
  }
  return found;
}

// ---- the queue ----

TEST(BoundedQueue, FirstInFirstOut) {
  BoundedQueue<int> queue(2);
  int value = 1;
  EXPECT_TRUE(queue.push(value));
  value = 2;
  EXPECT_TRUE(queue.push(value));
  value = 3;
  EXPECT_EQ(queue.push_for(value, 1ms), BoundedQueue<int>::Pushed::no_room);
  int displaced = 0;
  bool was_full = false;
  EXPECT_TRUE(queue.push_over(value, displaced, was_full));
  EXPECT_TRUE(was_full);
  EXPECT_EQ(displaced, 1);
  EXPECT_TRUE(queue.pop(value));
  EXPECT_EQ(value, 2);
  queue.end();
  value = 4;
  EXPECT_FALSE(queue.push(value));
  EXPECT_FALSE(queue.push_over(value, displaced, was_full));
  EXPECT_FALSE(was_full);
  EXPECT_EQ(queue.push_for(value, 1s), BoundedQueue<int>::Pushed::ended);
  EXPECT_TRUE(queue.pop(value));
  EXPECT_EQ(value, 3);
  EXPECT_FALSE(queue.pop(value));
}

TEST(BoundedQueue, CloseDropsAndWakes) {
  BoundedQueue<int> full(1);
  BoundedQueue<int> empty(1);
  int one = 1;
  full.push(one);
  std::thread pusher([&] {
    int value = 2;
    EXPECT_FALSE(full.push(value));
  });
  std::thread popper([&] {
    int value = 0;
    EXPECT_FALSE(empty.pop(value));
  });
  std::this_thread::sleep_for(5ms);
  full.close();
  empty.close();
  pusher.join();
  popper.join();
  EXPECT_FALSE(full.pop(one));
  EXPECT_FALSE(full.try_pop(one));
}

TEST(BoundedQueue, LosesNothingBetweenManyThreads) {
  BoundedQueue<int> queue(3);
  constexpr int kEach = 2000;
  std::vector<std::thread> threads;
  std::atomic<int64_t> sum{0};
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      for (int i = 1; i <= kEach; ++i) {
        int value = i;
        ASSERT_TRUE(queue.push(value));
      }
    });
  }
  std::vector<std::thread> poppers;
  for (int t = 0; t < 2; ++t) {
    poppers.emplace_back([&] {
      for (int value = 0; queue.pop(value);) sum += value;
    });
  }
  for (auto& thread : threads) thread.join();
  queue.end();
  for (auto& thread : poppers) thread.join();
  EXPECT_EQ(sum, int64_t{kEach} * (kEach + 1));
}

// ---- falling behind, as logic ----

class Levels : public ::testing::Test {
 protected:
  void all_available() {
    for (const auto level : {DuplexLevel::frames_dropped, DuplexLevel::fewer_steps, DuplexLevel::text_only}) {
      logic.set_available(level, true);
    }
  }
  // So many units of that kind, a second each; whether the level has changed at the last.
  bool units(int n, double wait, double work) {
    bool changed = false;
    for (int i = 0; i < n; ++i) changed = logic.observe(now += 1, wait, work);
    return changed;
  }
  bool late(int n) { return units(n, 0.8, 0.9); }
  bool calm(int n) { return units(n, 0, 0.3); }

  Degradation logic;
  double now = 0;
};

TEST_F(Levels, GoDownInTheStatedOrder) {
  all_available();
  for (int level = 1; level <= 4; ++level) {
    EXPECT_FALSE(late(1)) << "one late unit is no trend";
    EXPECT_TRUE(late(1));
    EXPECT_EQ(static_cast<int>(logic.level()), level);
    EXPECT_NE(logic.reason().find("800 ms"), std::string::npos);
  }
  EXPECT_FALSE(late(10)) << "there is no fifth";
  EXPECT_EQ(logic.level(), DuplexLevel::text_only);
}

TEST_F(Levels, SkipWhatCannotHelp) {
  EXPECT_TRUE(late(2));
  EXPECT_EQ(logic.level(), DuplexLevel::half_duplex);
  EXPECT_FALSE(late(2));
  EXPECT_TRUE(calm(10));
  EXPECT_EQ(logic.level(), DuplexLevel::full);
}

TEST_F(Levels, GoBackOneByOneWhenThereIsHeadroom) {
  all_available();
  late(8);
  for (int level = 3; level >= 0; --level) {
    EXPECT_FALSE(calm(9));
    EXPECT_TRUE(calm(1));
    EXPECT_EQ(static_cast<int>(logic.level()), level);
  }
  EXPECT_FALSE(calm(100));
}

TEST_F(Levels, NeitherLateNorCalmChangesNothing) {
  all_available();
  late(2);
  EXPECT_FALSE(units(1000, 0.3, 0.3)) << "waits a little";
  EXPECT_FALSE(units(1000, 0, 0.9)) << "in time, but only just";
  late(1);
  units(1, 0.3, 0.3);
  EXPECT_FALSE(late(1)) << "not in a row";
  calm(9);
  units(1, 0, 0.9);
  EXPECT_FALSE(calm(9)) << "not in a row";
  EXPECT_EQ(logic.level(), DuplexLevel::frames_dropped);
}

TEST_F(Levels, AreMorePatientAfterAMistake) {
  all_available();
  late(2);
  int needed = 10;
  for (int mistake = 0; mistake < 6; ++mistake) {
    EXPECT_FALSE(calm(needed - 1)) << mistake;
    EXPECT_TRUE(calm(1)) << mistake;
    EXPECT_TRUE(late(2));
    needed = std::min(2 * needed, 160);
  }
  EXPECT_TRUE(calm(160));
  calm(60);  // this time it holds
  EXPECT_TRUE(late(2));
  EXPECT_TRUE(calm(10));
}

TEST_F(Levels, DroppedInputNeedsNoTrend) {
  all_available();
  EXPECT_TRUE(logic.input_dropped(now += 1));
  EXPECT_TRUE(logic.input_dropped(now += 1));
  EXPECT_EQ(logic.level(), DuplexLevel::fewer_steps);
}

// ---- the session ----

TEST(DuplexSession, TellsATurnInOrder) {
  DuplexSession session(
      scripted_stages(script_of(
          {kListens, {true, "Hello", false}, {true, " there.", true}, kListens, {true, "Yes.", true}})),
      {}, offline());
  session.push_audio(sound_of(6));
  session.end_input();
  const auto events = read_all(session);
  check_course(events);
  const auto texts = of_type<DuplexTextEvent>(events);
  ASSERT_EQ(texts.size(), 3U);
  EXPECT_EQ(texts[0].text + texts[1].text, "Hello there.");
  EXPECT_FALSE(texts[0].end_of_turn);
  EXPECT_TRUE(texts[1].end_of_turn);
  const auto sounds = of_type<DuplexAudioEvent>(events);
  ASSERT_EQ(sounds.size(), 3U);
  EXPECT_TRUE(sounds[0].first && !sounds[0].last);
  EXPECT_TRUE(!sounds[1].first && sounds[1].last);
  EXPECT_TRUE(sounds[2].first && sounds[2].last);
  EXPECT_EQ(sounds[1].samples, std::vector<float>(100, DuplexScript::sound_sample(2)));
  for (const auto& end : of_type<DuplexTurnEndEvent>(events)) EXPECT_FALSE(end.interrupted);
  const auto units = of_type<DuplexUnitEvent>(events);
  ASSERT_EQ(units.size(), 6U);
  EXPECT_TRUE(units[0].is_listen);
  EXPECT_FALSE(units[1].is_listen);
  EXPECT_EQ(units[1].speech_tokens, 25);
  EXPECT_EQ(units[5].cache_length, 6 * 13);
  EXPECT_EQ(session.units(), 6);
  EXPECT_EQ(session.epoch(), 0);
}

// The first unit is as long as all others, nothing is padded, and how the sound is cut changes nothing.
TEST(DuplexSession, CutsUnitsOfExactlyOneSecond) {
  for (const size_t piece : {1U, 160U, 15999U, 16001U, 100000U}) {
    DuplexScript script = script_of({});
    DuplexSession session(scripted_stages(script), {}, offline());
    const std::vector<float> sound(3 * 16000 + 15999, 0.1F);
    for (size_t i = 0; i < sound.size(); i += piece) {
      session.push_audio(std::span(sound).subspan(i, std::min(piece, sound.size() - i)));
    }
    session.end_input();
    EXPECT_EQ(of_type<DuplexUnitEvent>(read_all(session)).size(), 3U) << piece;
    EXPECT_EQ(script.counts->encoded, 3);
  }
}

TEST(DuplexSession, TheLatestFramesCount) {
  DuplexScript script = script_of({});
  DuplexSessionOptions options = offline();
  options.max_frames_per_unit = 2;
  DuplexSession session(scripted_stages(script), {}, options);
  for (int i = 0; i < 5; ++i) session.push_frame({2, 1, std::vector<uint8_t>(6)});
  session.push_audio(sound_of(2));
  session.push_frame({2, 1, std::vector<uint8_t>(6)});
  session.push_audio(sound_of(1));
  session.end_input();
  read_all(session);
  EXPECT_EQ(script.counts->frames, 3);
}

TEST(DuplexSession, RefusesBadInput) {
  DuplexSession session(scripted_stages(script_of({})), {}, offline());
  auto sound = sound_of(1);
  sound[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(session.push_audio(sound), Error);
  EXPECT_THROW(session.push_frame({2, 2, std::vector<uint8_t>(3)}), Error);
  EXPECT_THROW(session.push_frame({0, 2, {}}), Error);
  EXPECT_THROW(session.push_frame({60000, 1, std::vector<uint8_t>(180000)}), Error);
  session.push_audio({});
  session.end_input();
  EXPECT_TRUE(read_all(session).empty()) << "nothing of it was taken";
  EXPECT_THROW(session.push_audio(sound_of(1)), Error);
  session.close();
  try {
    session.push_audio(sound_of(1));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::cancelled);
  }
  DuplexSessionOptions options;
  options.max_queued_units = 0;
  EXPECT_THROW(DuplexSession(scripted_stages(script_of({})), {}, options), Error);
  EXPECT_THROW(DuplexSession(DuplexStages(), {}, {}), Error);
}

TEST(DuplexSession, WithoutSpeechAnswersAreText) {
  DuplexScript script = script_of({{true, "Yes.", true}});
  script.has_speech = false;
  DuplexSession session(scripted_stages(script), {}, offline());
  session.push_audio(sound_of(2));
  session.end_input();
  const auto events = read_all(session);
  check_course(events);
  EXPECT_EQ(of_type<DuplexTextEvent>(events).size(), 1U);
  EXPECT_TRUE(of_type<DuplexAudioEvent>(events).empty());
  EXPECT_EQ(of_type<DuplexTurnEndEvent>(events).size(), 1U);
}

TEST(DuplexSession, AnOpenTurnEndsWithTheInput) {
  DuplexSession session(scripted_stages(script_of({{true, "Once upon", false}})), {}, offline());
  session.push_audio(sound_of(1));
  session.end_input();
  const auto events = read_all(session);
  check_course(events);
  ASSERT_EQ(of_type<DuplexTurnEndEvent>(events).size(), 1U);
  EXPECT_TRUE(of_type<DuplexTurnEndEvent>(events)[0].interrupted);
}

// Text runs ahead of sound inside a turn, not into the next one.
TEST(DuplexSession, ATurnIsToldBeforeTheNextOne) {
  DuplexScript script =
      script_of({{true, "A", true}, {true, "B", false}, {true, "b", true}, {true, "C", true}});
  script.before = [](ScriptedStage stage, int64_t) {
    if (stage == ScriptedStage::render) std::this_thread::sleep_for(30ms);
  };
  DuplexSession session(scripted_stages(script), {}, offline());
  session.push_audio(sound_of(5));
  session.end_input();
  const auto events = read_all(session);
  check_course(events);
  std::string course;
  for (const DuplexEvent& event : events) {
    if (const auto* text = get<DuplexTextEvent>(event)) course += text->text;
    if (get<DuplexAudioEvent>(event) != nullptr) course += '~';
    if (get<DuplexTurnEndEvent>(event) != nullptr) course += '.';
  }
  EXPECT_EQ(course, "A~.Bb~~.C~.");
}

// Encoding of a unit overlaps the decision of the one before, and that the sound of the one before it.
TEST(DuplexSession, StagesRunSideBySide) {
  std::atomic<int> at_once{0};
  std::atomic<int> most{0};
  DuplexScript script = script_of({{true, "a", false}});
  script.repeat = true;
  script.before = [&](ScriptedStage, int64_t) {
    most = std::max<int>(most, ++at_once);
    std::this_thread::sleep_for(20ms);
    --at_once;
  };
  DuplexSession session(scripted_stages(script), {}, offline());
  session.push_audio(sound_of(10));
  session.end_input();
  check_course(read_all(session));
  EXPECT_GE(most, 3);
}

TEST(DuplexSession, AnInterruptedTurnIsOverAtOnce) {
  DuplexScript script = script_of({{true, "a", false}});
  script.repeat = true;
  DuplexSession session(scripted_stages(script), {}, offline());
  std::thread pusher([&] { session.push_audio(sound_of(8)); });
  read_until<DuplexAudioEvent>(session);
  EXPECT_TRUE(session.is_speaking());
  session.interrupt();
  EXPECT_EQ(session.epoch(), 1);
  EXPECT_FALSE(session.is_speaking());
  pusher.join();
  session.end_input();
  const auto rest = read_all(session);
  bool ended = false;
  for (const DuplexEvent& event : rest) {
    if (get<DuplexUnitEvent>(event) != nullptr) continue;
    EXPECT_EQ(event.epoch, 1) << "stale output";
    if (const auto* end = get<DuplexTurnEndEvent>(event); end != nullptr && !ended) {
      EXPECT_TRUE(end->interrupted);
      ended = true;
    } else if (get<DuplexTextEvent>(event) != nullptr || get<DuplexAudioEvent>(event) != nullptr) {
      EXPECT_TRUE(ended) << "output of the turn behind its interruption";
    }
  }
  EXPECT_TRUE(ended);
  EXPECT_EQ(script.counts->forced, 1);
  EXPECT_EQ(script.counts->speech_cancels, 1);
  EXPECT_EQ(script.counts->sound_cancels, 1);
}

// A turn that waits unread loses its sound, and says so.
TEST(DuplexSession, InterruptionReachesWhatIsNotRead) {
  DuplexSession session(scripted_stages(script_of({{true, "Yes.", true}})), {}, offline());
  session.push_audio(sound_of(1));
  while (session.units() < 1) std::this_thread::sleep_for(1ms);
  DuplexEvent event;
  ASSERT_EQ(session.poll(event, 5s), Poll::event);  // that it speaks; the rest may come later
  std::this_thread::sleep_for(50ms);
  session.interrupt();
  session.end_input();
  const auto rest = read_all(session);
  EXPECT_TRUE(of_type<DuplexTextEvent>(rest).empty());
  EXPECT_TRUE(of_type<DuplexAudioEvent>(rest).empty());
  ASSERT_EQ(of_type<DuplexTurnEndEvent>(rest).size(), 1U);
  EXPECT_TRUE(of_type<DuplexTurnEndEvent>(rest)[0].interrupted);
}

TEST(DuplexSession, EveryFailingStageEndsIt) {
  for (const auto failing :
       {ScriptedStage::encode, ScriptedStage::decide, ScriptedStage::speak, ScriptedStage::render}) {
    for (const bool real_time : {true, false}) {
      DuplexScript script = script_of({{true, "a", false}});
      script.repeat = true;
      script.before = [=](ScriptedStage stage, int64_t call) {
        if (stage == failing && call == 2) fail(ErrorCode::device, "lost");
      };
      DuplexSessionOptions options;
      options.real_time = real_time;
      DuplexSession session(scripted_stages(script), {}, options);
      std::thread pusher([&] {
        try {
          for (int i = 0; i < 10000; ++i) {
            session.push_audio(sound_of(1));
            if (real_time) std::this_thread::sleep_for(1ms);
          }
          ADD_FAILURE() << "the failure doesn't reach the pusher";
        } catch (const Error& e) {
          EXPECT_EQ(e.code(), ErrorCode::device);
        }
      });
      try {
        read_all(session);
        ADD_FAILURE() << "the failure doesn't reach the reader";
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::device);
        EXPECT_STREQ(e.what(), "lost");
      }
      pusher.join();
      DuplexEvent event;
      EXPECT_THROW(session.poll(event), Error) << "it stays";
    }
  }
}

TEST(DuplexSession, ForeignExceptionsAreErrors) {
  DuplexScript script = script_of({});
  script.before = [](ScriptedStage, int64_t) { throw std::runtime_error("odd"); };
  DuplexSession session(scripted_stages(script), {}, offline());
  try {
    session.push_audio(sound_of(1));
    read_all(session);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::internal);
    EXPECT_STREQ(e.what(), "odd");
  }
}

TEST(DuplexSession, OfflineNothingIsDropped) {
  DuplexScript script = script_of({{true, "a", true}});
  script.repeat = true;
  script.before = [](ScriptedStage, int64_t) { std::this_thread::sleep_for(2ms); };
  DuplexSession session(scripted_stages(script), {}, offline());
  session.push_audio(sound_of(40));  // far more than the queues hold, and nobody reads yet
  session.end_input();
  const auto events = read_all(session);
  check_course(events);
  EXPECT_EQ(of_type<DuplexUnitEvent>(events).size(), 40U);
  EXPECT_TRUE(of_type<DuplexInputDroppedEvent>(events).empty());
  EXPECT_TRUE(of_type<DuplexDegradedEvent>(events).empty());
}

TEST(DuplexSession, InRealTimeTheOldestGoesAndItIsSaid) {
  DuplexScript script = script_of({{true, "a", true}});
  script.repeat = true;
  std::atomic<bool> held{true};
  script.before = [&](ScriptedStage, int64_t) {
    while (held) std::this_thread::sleep_for(1ms);
  };
  DuplexSession session(scripted_stages(script), {}, {});
  const auto start = std::chrono::steady_clock::now();
  session.push_audio(sound_of(50));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 5s) << "it never waits";
  EXPECT_EQ(session.level(), DuplexLevel::text_only);
  held = false;
  session.end_input();
  const auto events = read_all(session);
  double dropped = 0;
  for (const auto& drop : of_type<DuplexInputDroppedEvent>(events)) dropped += drop.seconds;
  const auto heard = of_type<DuplexUnitEvent>(events).size();
  EXPECT_EQ(static_cast<size_t>(dropped) + heard, 50U);
  EXPECT_GE(heard, 4U);
  EXPECT_LE(heard, 7U);
  check_course(events);
  EXPECT_EQ(of_type<DuplexTextEvent>(events).size(), heard);
  EXPECT_TRUE(of_type<DuplexAudioEvent>(events).empty()) << "text only";
}

// Late units lower the level until the model hears nothing while it speaks and answers in text.
TEST(DuplexSession, DoesLessWhenItIsLate) {
  DuplexScript script = script_of({kListens});
  for (int i = 0; i < 4; ++i) script.units.push_back({true, "a", i == 3});
  script.repeat = true;
  script.before = [](ScriptedStage stage, int64_t) {
    if (stage == ScriptedStage::decide) std::this_thread::sleep_for(300ms);
  };
  DuplexSessionOptions options;
  options.max_queued_units = 100;  // so that nothing overflows
  DuplexSession session(scripted_stages(script), {}, options);
  for (int i = 0; i < 24; ++i) {
    session.push_frame({2, 1, std::vector<uint8_t>(6)});
    session.push_audio(sound_of(1));
  }
  session.end_input();
  const auto events = read_all(session);
  check_course(events);
  const auto levels = of_type<DuplexDegradedEvent>(events);
  ASSERT_EQ(levels.size(), 4U);
  for (size_t i = 0; i < levels.size(); ++i) EXPECT_EQ(levels[i].level, static_cast<DuplexLevel>(i + 1));
  double unheard = 0;
  for (const auto& drop : of_type<DuplexInputDroppedEvent>(events)) unheard += drop.seconds;
  EXPECT_GT(unheard, 0);
  EXPECT_GT(script.counts->silent, 0);
  EXPECT_EQ(script.counts->steps, 5);
  int units_since = -1;  // the level was lowered; three units may have been on their way
  for (const DuplexEvent& event : events) {
    if (get<DuplexDegradedEvent>(event) != nullptr && units_since < 0) units_since = 0;
    const auto* unit = get<DuplexUnitEvent>(event);
    if (unit == nullptr || units_since < 0) continue;
    if (++units_since > 3) EXPECT_EQ(unit->dropped_frames, 1);
  }
  EXPECT_GT(units_since, 3);
}

TEST(DuplexSession, DoesEverythingAgainWhenItHasTime) {
  std::atomic<bool> held{true};
  DuplexScript script = script_of({{true, "a", true}});
  script.repeat = true;
  script.before = [&](ScriptedStage, int64_t) {
    while (held) std::this_thread::sleep_for(1ms);
  };
  DuplexSessionOptions options;
  options.max_queued_units = 1;
  DuplexSession session(scripted_stages(script), {}, options);
  int64_t pushed = 0;
  for (; session.level() == DuplexLevel::full; ++pushed) session.push_audio(sound_of(1));
  EXPECT_EQ(session.level(), DuplexLevel::fewer_steps) << "no pictures come, so dropping them can't help";
  held = false;
  std::vector<DuplexLevel> levels;
  int64_t gone = 0;  // answered or dropped
  int fewest = 10;
  const auto deadline = std::chrono::steady_clock::now() + kBound;
  while (levels.size() < 2 || script.counts->steps != 10) {  // one unit at a time, which is easy
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    DuplexEvent event;
    if (session.poll(event, 100ms) != Poll::event) continue;
    if (const auto* change = get<DuplexDegradedEvent>(event)) levels.push_back(change->level);
    if (const auto* drop = get<DuplexInputDroppedEvent>(event)) gone += static_cast<int64_t>(drop->seconds);
    if (get<DuplexUnitEvent>(event) != nullptr) ++gone;
    fewest = std::min<int>(fewest, script.counts->steps);
    if (gone < pushed) continue;
    session.push_audio(sound_of(1));
    ++pushed;
  }
  EXPECT_EQ(levels, (std::vector{DuplexLevel::fewer_steps, DuplexLevel::full}));
  EXPECT_EQ(fewest, 5);
}

TEST(DuplexSession, ASlowReaderStopsTheStagesAndNotTheInput) {
  DuplexScript script = script_of({{true, "a", false}});
  script.repeat = true;
  DuplexSessionOptions options;
  options.max_queued_events = 16;
  DuplexSession session(scripted_stages(script), {}, options);
  for (int i = 0; i < 60; ++i) {
    session.push_audio(sound_of(1));
    std::this_thread::sleep_for(1ms);
  }
  session.end_input();
  const auto events = read_all(session);
  check_course(events);
  double seconds = static_cast<double>(of_type<DuplexUnitEvent>(events).size());
  EXPECT_LT(seconds, 60) << "the stages waited";
  for (const auto& drop : of_type<DuplexInputDroppedEvent>(events)) seconds += drop.seconds;
  EXPECT_GE(seconds, 60) << "no second is lost without a word";
}

TEST(DuplexSession, ClosesFromAnyThreadAtAnyTime) {
  std::mt19937 random(7);
  for (int round = 0; round < 30; ++round) {
    DuplexScript script = script_of({{true, "a", round % 2 == 0}});
    script.repeat = true;
    script.before = [](ScriptedStage, int64_t) { std::this_thread::sleep_for(1ms); };
    DuplexSessionOptions options;
    options.real_time = round % 3 == 0;
    DuplexSession session(scripted_stages(script), {}, options);
    std::thread pusher([&] {
      try {
        session.push_audio(sound_of(200));
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::cancelled);
      }
    });
    std::thread reader([&] {
      DuplexEvent event;
      while (session.poll(event, 10s) != Poll::end) {
      }
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    std::thread other([&] { session.close(); });
    session.close();
    other.join();
    reader.join();
    pusher.join();
    DuplexEvent event;
    EXPECT_EQ(session.poll(event), Poll::end);
  }
}

TEST(DuplexSession, APushThatWaitsCanGiveUp) {
  std::atomic<bool> held{true};
  DuplexScript script = script_of({});
  script.before = [&](ScriptedStage, int64_t) {
    while (held) std::this_thread::sleep_for(1ms);
  };
  DuplexSession session(scripted_stages(script), {}, offline());
  struct GivenUp {};
  int asked = 0;
  EXPECT_THROW(session.push_audio(sound_of(50),
                                  [&] {
                                    if (++asked == 2) throw GivenUp();
                                  }),
               GivenUp);
  held = false;
  session.push_audio(sound_of(1));  // the session goes on
  session.end_input();
  const auto events = read_all(session);
  EXPECT_EQ(of_type<DuplexInputDroppedEvent>(events).size(), 1U);
}

TEST(DuplexSession, PushesOfSeveralThreadsDontMix) {
  DuplexScript script = script_of({});
  DuplexSession session(scripted_stages(script), {}, offline());
  std::vector<std::thread> pushers;
  for (int t = 0; t < 3; ++t) {
    pushers.emplace_back([&session, t] {
      for (int i = 0; i < 5; ++i) session.push_audio(sound_of(2, t == 0 ? 0.0F : 0.1F));
    });
  }
  for (auto& pusher : pushers) pusher.join();
  session.end_input();
  EXPECT_EQ(of_type<DuplexUnitEvent>(read_all(session)).size(), 30U);
  EXPECT_EQ(script.counts->silent, 10);
}

// Random scripts, delays, interruptions and readers: what must always hold, holds.
TEST(DuplexSession, HoldsItsPromisesInRandomCourses) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    DuplexScript script = script_of({});
    const auto length = 5 + random() % 20;
    for (size_t i = 0; i < length; ++i) {
      script.units.push_back({random() % 3 != 0, std::to_string(i), random() % 3 == 0});
    }
    script.samples_per_unit = random() % 4 == 0 ? 0 : 50;
    std::array<unsigned, 4> slow{};
    for (unsigned& each : slow) each = random() % 4 == 0 ? 3000 : 200;
    script.before = [slow](ScriptedStage stage, int64_t call) {
      const unsigned most = slow[static_cast<size_t>(stage)];
      std::this_thread::sleep_for(std::chrono::microseconds(static_cast<unsigned>(call * 7919) % most));
    };
    DuplexSessionOptions options;
    options.real_time = random() % 2 == 0;
    options.max_queued_events = 16;
    options.max_queued_units = 1 + static_cast<int>(random() % 4);
    DuplexSession session(scripted_stages(script), {}, options);
    const auto pause = random() % 3000;
    std::thread pusher([&] {
      for (size_t i = 0; i < length; ++i) {
        session.push_audio(sound_of(1));
        std::this_thread::sleep_for(std::chrono::microseconds(pause));
      }
      session.end_input();
    });
    std::vector<DuplexEvent> events;
    const auto deadline = std::chrono::steady_clock::now() + kBound;
    const bool interrupts = random() % 3 != 0;
    int64_t epoch = 0;
    while (true) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "seed " << seed;
      DuplexEvent event;
      const Poll found = session.poll(event, 50ms);
      if (found == Poll::end) break;
      if (found == Poll::event) {
        if (get<DuplexUnitEvent>(event) == nullptr) EXPECT_GE(event.epoch, epoch) << "seed " << seed;
        events.push_back(std::move(event));
      }
      if (interrupts && random() % 8 == 0) {
        session.interrupt();
        epoch = session.epoch();
      }
      if (random() % 10 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 5000));
    }
    pusher.join();
    check_course(events);
    double seconds = static_cast<double>(of_type<DuplexUnitEvent>(events).size());
    for (const auto& drop : of_type<DuplexInputDroppedEvent>(events)) seconds += drop.seconds;
    // A unit whose own sound gave way to silence counts as dropped and as decided.
    EXPECT_GE(seconds, static_cast<double>(length)) << "seed " << seed;
    if (options.real_time) continue;
    EXPECT_EQ(of_type<DuplexUnitEvent>(events).size(), length) << "seed " << seed;
    if (interrupts) continue;
    size_t speaking = 0;
    for (const auto& unit : script.units) speaking += unit.speaks ? 1 : 0;
    EXPECT_EQ(of_type<DuplexTextEvent>(events).size(), speaking) << "seed " << seed;
  }
}

// A stage fails somewhere while others work, wait, or are interrupted: the error comes out, everybody ends.
TEST(DuplexSession, EndsWhateverFailsWhenever) {
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    DuplexScript script = script_of({{true, "a", false}, {true, "b", true}, kListens});
    script.repeat = true;
    const auto failing = static_cast<ScriptedStage>(random() % 4);
    const auto at = static_cast<int64_t>(random() % 10);
    const unsigned most = 1 + random() % 2000;
    script.before = [=](ScriptedStage stage, int64_t call) {
      std::this_thread::sleep_for(std::chrono::microseconds(static_cast<unsigned>(call * 7919) % most));
      if (stage == failing && call == at) fail(ErrorCode::device, "lost");
    };
    DuplexSessionOptions options;
    // In real time answers are soon text only, and the last two stages have nothing to do.
    options.real_time = random() % 2 == 0 && failing < ScriptedStage::speak;
    options.max_queued_events = 16;
    DuplexSession session(scripted_stages(script), {}, options);
    std::thread pusher([&] {
      try {
        while (true) {
          session.push_audio(sound_of(1));
          std::this_thread::sleep_for(100us);
        }
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::device) << e.what();
      }
    });
    std::thread other([&session, pause = random() % 3000] {
      std::this_thread::sleep_for(std::chrono::microseconds(pause));
      session.interrupt();
    });
    EXPECT_THROW(read_all(session), Error) << "seed " << seed;
    pusher.join();
    other.join();
  }
}

}  // namespace
}  // namespace omni
