// runtime/degradation.h - when a session does less, and when it does everything again. Pure logic: no clock.
#pragma once

#include "omni/duplex_session.h"

#include <array>
#include <optional>
#include <string>

namespace omni {

struct DegradationOptions {
  // A unit is late if it waited so long for stages that were busy with the units before it ...
  double late_seconds = 0.5;
  int late_units = 2;  // ... and so many in a row lower the level
  // A unit is calm if it waited at most so long and its slowest stage took at most so long ...
  double calm_wait = 0.15;
  double calm_work = 0.7;
  int calm_units = 10;  // ... and so many in a row raise the level
  // If raising it was a mistake, which shows within so many seconds, twice as many calm units are needed the
  // next time, up to so many times as many.
  double mistake_seconds = 30;
  int max_patience = 16;
};

class Degradation {
 public:
  explicit Degradation(const DegradationOptions& options = {}) : options_(options) {}

  // Which levels would help: pictures come, steps can be reduced, there is speech. All but full and half
  // duplex are unavailable at first.
  void set_available(DuplexLevel level, bool available);

  // What a unit that is done tells: how long it waited in queues and how long its slowest stage worked, in
  // seconds. True if the level has changed.
  bool observe(double now, double wait, double slowest_stage);
  // Input had to be dropped: too late for patience.
  bool input_dropped(double now);

  DuplexLevel level() const { return level_; }
  const std::string& reason() const { return reason_; }  // of the last change

 private:
  bool lower(double now, std::string reason);

  DegradationOptions options_;
  std::array<bool, 5> available_{true, false, false, true, false};
  DuplexLevel level_ = DuplexLevel::full;
  std::string reason_;
  int late_ = 0;
  int calm_ = 0;
  int patience_ = 1;
  std::optional<double> raised_at_;
};

}  // namespace omni
