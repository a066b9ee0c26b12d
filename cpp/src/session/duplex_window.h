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

  const std::vector<DuplexUnit>& units() const { return units_; }
  const std::vector<int32_t>& previous() const { return previous_; }
  int64_t protected_rows() const;

 private:
  void drop_oldest();
  // Appends what the unit said to previous_; false if that changes nothing.
  bool remember(const DuplexUnit& unit);

  SessionModel& model_;
  Tokenizer tokenizer_;
  const DuplexOptions& options_;
  int64_t prefix_rows_ = 0;
  std::vector<int32_t> suffix_;
  std::vector<int32_t> marker_;
  std::vector<int32_t> previous_;
  std::vector<DuplexUnit> units_;
  std::vector<float> embeds_;
};

}  // namespace omni
