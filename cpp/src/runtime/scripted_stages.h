// runtime/scripted_stages.h - stages without networks: they do what a script says, so that a session and the
// programs around it are tested in every course that events can take.
#pragma once

#include "omni/duplex_stages.h"
#include "omni/export.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace omni {

struct ScriptedUnit {
  bool speaks = false;
  std::string text;
  bool ends_turn = false;
};

enum class ScriptedStage { encode, decide, speak, render };

// What the stages were asked to do. A unit is its place among those that were decided, from 0.
struct ScriptedCounts {
  std::atomic<int64_t> encoded{0};
  std::atomic<int64_t> frames{0};          // pictures encoded
  std::atomic<int64_t> silent{0};          // units decided whose sound is zero
  std::atomic<int64_t> forced{0};          // units that were made to listen
  std::atomic<int64_t> speech_cancels{0};  // turns cut
  std::atomic<int64_t> sound_cancels{0};
  std::atomic<int> steps{10};  // in force
};

struct DuplexScript {
  std::vector<ScriptedUnit> units;  // listens behind the last one
  bool repeat = false;              // begins again instead
  size_t samples_per_unit = 24000;  // of a speaking unit: all sound_sample(unit)
  bool has_speech = true;
  bool steps_vary = true;  // set_steps() is allowed
  // Called first in each call of a stage with the number of calls before: may wait, may throw.
  std::function<void(ScriptedStage stage, int64_t call)> before;
  std::shared_ptr<ScriptedCounts> counts = std::make_shared<ScriptedCounts>();

  static float sound_sample(int64_t unit) { return static_cast<float>(unit % 1000) / 1024.0F; }
};

// A unit that was forced to listen closes the turn; the script's next speaking unit starts a new one.
OMNI_API DuplexStages scripted_stages(const DuplexScript& script);

}  // namespace omni
