// session/duplex_window.h - which rows of the cache belong to which unit, and which of them leave.
#pragma once

#include "omni/duplex.h"

#include <vector>

namespace omni {

// Keeps count of the rows behind the system prompt and drops the oldest units.
//
//   [prefix][marker + previous][suffix][unit][unit]...
class DuplexWindow {
 public:
  DuplexWindow(SessionModel& model, const Tokenizer& tokenizer, const DuplexOptions& options);

  // After the prefix (`prefix_rows`) and the suffix were fed.
  void begin(int64_t prefix_rows, std::vector<int32_t> suffix, std::vector<int32_t> marker);
  void add(DuplexUnit unit);
  // Drops units as the mode says.
  void enforce();
  // Drops units, unless the mode is off, until `rows` more fit.
  void make_room(int64_t rows);

  // What is remembered beside the model's cache.
  struct State {
    int64_t prefix_rows = 0;
    std::vector<int32_t> suffix;
    std::vector<int32_t> marker;
    std::vector<int32_t> previous;
    std::vector<DuplexUnit> units;
  };
  const State& state() const { return state_; }
  void restore(const State& state) { state_ = state; }

  const std::vector<DuplexUnit>& units() const { return state_.units; }
  const std::vector<int32_t>& previous() const { return state_.previous; }
  int64_t protected_rows() const;

 private:
  void drop_oldest();
  // Appends what the unit said to what was said before; false if that changes nothing.
  bool remember(const DuplexUnit& unit);

  SessionModel& model_;
  Tokenizer tokenizer_;
  const DuplexOptions& options_;
  State state_;
  std::vector<float> embeds_;
};

}  // namespace omni
