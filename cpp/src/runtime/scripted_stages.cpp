// runtime/scripted_stages.cpp - stages that do what a script says.
#include "runtime/scripted_stages.h"

#include "omni/error.h"

#include <algorithm>
#include <utility>

namespace omni {
namespace {

using Script = std::shared_ptr<const DuplexScript>;

class Caller {
 public:
  Caller(Script script, ScriptedStage stage) : script_(std::move(script)), stage_(stage) {}
  void operator()() {
    const int64_t call = calls_++;
    if (script_->before) script_->before(stage_, call);
  }
  const DuplexScript& script() const { return *script_; }
  ScriptedCounts& counts() const { return *script_->counts; }

 private:
  Script script_;
  ScriptedStage stage_;
  int64_t calls_ = 0;
};

class Encoder final : public DuplexEncoder {
 public:
  explicit Encoder(Script script) : called_(std::move(script), ScriptedStage::encode) {}
  void reset() override {}
  DuplexEncodedUnit encode(const DuplexUnitInput& unit) override {
    called_();
    ++called_.counts().encoded;
    called_.counts().frames += static_cast<int64_t>(unit.frames.size());
    DuplexEncodedUnit encoded;
    encoded.audio.assign(10, unit.audio.at(0));
    return encoded;
  }
  std::vector<float> encode_reference(std::span<const float> recording) override {
    return std::vector<float>(10, recording.empty() ? 0.0F : recording[0]);
  }

 private:
  Caller called_;
};

class Decider final : public DuplexDecider {
 public:
  explicit Decider(Script script) : called_(std::move(script), ScriptedStage::decide) {}
  void prepare(const DuplexPrompt&, std::span<const float>) override {
    next_ = 0;
    open_ = false;
  }
  DuplexResult step(const DuplexEncodedUnit& unit, bool force_listen) override {
    called_();
    if (unit.audio.at(0) == 0.0F) ++called_.counts().silent;
    if (force_listen) ++called_.counts().forced;
    const auto& units = called_.script().units;
    const auto now = static_cast<size_t>(next_++);
    DuplexResult result;
    const bool listens = force_listen || units.empty() || (now >= units.size() && !called_.script().repeat);
    const ScriptedUnit said = listens ? ScriptedUnit() : units[now % units.size()];
    if (!said.speaks) {
      open_ = false;
      return result;
    }
    result.is_listen = false;
    result.starts_turn = !std::exchange(open_, !said.ends_turn);
    result.end_of_turn = said.ends_turn;
    result.text = said.text;
    result.spoken_ids = {static_cast<int32_t>(now)};
    return result;
  }
  bool turn_is_open() const override { return open_; }
  int64_t cache_length() const override { return 13 * next_; }
  int64_t cache_capacity() const override { return int64_t{13} << 32; }

 private:
  Caller called_;
  int64_t next_ = 0;
  bool open_ = false;
};

class Speech final : public DuplexSpeech {
 public:
  explicit Speech(Script script) : called_(std::move(script), ScriptedStage::speak) {}
  void speak(const DuplexResult& unit, std::vector<int32_t>& tokens) override {
    called_();
    require(unit.starts_turn != in_turn_, ErrorCode::internal, "a turn is spoken from its middle, or twice");
    in_turn_ = !unit.end_of_turn;
    tokens.assign(25, unit.spoken_ids.at(0));
  }
  void cancel() override {
    in_turn_ = false;
    ++called_.counts().speech_cancels;
  }

 private:
  Caller called_;
  bool in_turn_ = false;
};

class Sound final : public DuplexSound {
 public:
  explicit Sound(Script script) : called_(std::move(script), ScriptedStage::render) {}
  void render(std::span<const int32_t> tokens, bool starts_turn, bool end_of_turn,
              std::vector<float>& wave) override {
    called_();
    require(starts_turn != in_turn_, ErrorCode::internal, "a turn sounds from its middle, or twice");
    in_turn_ = !end_of_turn;
    wave.assign(called_.script().samples_per_unit, DuplexScript::sound_sample(tokens.front()));
  }
  void cancel() override {
    in_turn_ = false;
    ++called_.counts().sound_cancels;
  }
  bool set_steps(int steps) override {
    if (!called_.script().steps_vary) return false;
    called_.counts().steps = steps;
    return true;
  }
  int steps() const override { return called_.counts().steps; }

 private:
  Caller called_;
  bool in_turn_ = false;
};

}  // namespace

DuplexStages scripted_stages(const DuplexScript& script) {
  const auto shared = std::make_shared<const DuplexScript>(script);
  DuplexStages stages;
  stages.encoder = std::make_unique<Encoder>(shared);
  stages.decider = std::make_unique<Decider>(shared);
  if (script.has_speech) {
    stages.speech = std::make_unique<Speech>(shared);
    stages.sound = std::make_unique<Sound>(shared);
  }
  return stages;
}

}  // namespace omni
