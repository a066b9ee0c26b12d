// runtime/degradation.cpp - when a session does less.
#include "runtime/degradation.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace omni {

const char* name_of(DuplexLevel level) {
  switch (level) {
    case DuplexLevel::full:
      return "full";
    case DuplexLevel::frames_dropped:
      return "frames dropped";
    case DuplexLevel::fewer_steps:
      return "fewer flow steps";
    case DuplexLevel::half_duplex:
      return "half duplex";
    case DuplexLevel::text_only:
      return "text only";
  }
  return "unknown";
}

void Degradation::set_available(DuplexLevel level, bool available) {
  available_[static_cast<size_t>(level)] = available;
}

bool Degradation::lower(double now, std::string reason) {
  late_ = calm_ = 0;
  auto next = static_cast<size_t>(level_) + 1;
  while (next < available_.size() && !available_[next]) ++next;
  if (next == available_.size()) return false;
  if (raised_at_ && now - *raised_at_ <= options_.mistake_seconds) {
    patience_ = std::min(2 * patience_, options_.max_patience);
  } else if (raised_at_) {
    patience_ = 1;
  }
  raised_at_.reset();
  level_ = static_cast<DuplexLevel>(next);
  reason_ = std::move(reason);
  return true;
}

bool Degradation::observe(double now, double wait, double slowest_stage) {
  const bool late = wait > options_.late_seconds;
  const bool calm = wait <= options_.calm_wait && slowest_stage <= options_.calm_work;
  late_ = late ? late_ + 1 : 0;
  calm_ = calm ? calm_ + 1 : 0;
  if (late_ >= options_.late_units) {
    return lower(now, str("units wait ", std::lround(wait * 1000), " ms for the ones before them"));
  }
  if (level_ == DuplexLevel::full || calm_ < options_.calm_units * patience_) return false;
  late_ = calm_ = 0;
  auto next = static_cast<size_t>(level_) - 1;
  while (!available_[next]) --next;
  level_ = static_cast<DuplexLevel>(next);
  raised_at_ = now;
  reason_ = "there is time to spare again";
  return true;
}

bool Degradation::input_dropped(double now) {
  return lower(now, "input came faster than it could be answered");
}

}  // namespace omni
