// runtime/duplex_output.cpp - the last gate of a session.
#include "runtime/duplex_output.h"

#include <algorithm>
#include <utility>

namespace omni {
namespace {

double span_of(DuplexClock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void DuplexJob::clear() {
  input.audio.clear();
  input.frames.clear();
  encoded.images.clear();
  encoded.audio.clear();
  encoded.text_ids.clear();
  result = {};
  is_spoken = false;
  tokens.clear();
  wave.clear();
  encode_seconds = decide_seconds = speak_seconds = render_seconds = 0;
  dropped_frames = 0;
}

DuplexOutput::DuplexOutput(std::optional<size_t> limit, bool degrades)
    : limit_(limit), degrades_(degrades), start_(DuplexClock::now()) {}

double DuplexOutput::seconds(DuplexClock::time_point time) const {
  return span_of(time - start_);
}

template <typename What>
void DuplexOutput::put(int64_t unit, int64_t epoch, What&& what) {
  events_.push_back({unit, epoch, seconds(DuplexClock::now()), std::forward<What>(what)});
  filled_.notify_one();
}

bool DuplexOutput::wait_for_room(std::unique_lock<std::mutex>& lock) {
  room_.wait(lock, [&] { return ended_ || closed_ || !limit_ || events_.size() < *limit_; });
  return !ended_ && !closed_;
}

// ---- stages ----

DuplexOutput::Start DuplexOutput::begin_unit() {
  const std::scoped_lock lock(mutex_);
  return {epoch_, std::exchange(force_listen_, false)};
}

void DuplexOutput::say(int64_t unit, DuplexTextEvent&& text) {
  if (!open_) {
    open_ = true;
    turn_unit_ = unit;
    has_sound_ = false;
    put(unit, epoch_, DuplexStateEvent{true});
  }
  put(unit, epoch_, std::move(text));
}

void DuplexOutput::said(const DuplexJob& job) {
  std::unique_lock lock(mutex_);
  if (!wait_for_room(lock)) return;
  last_unit_ = job.unit;
  if (job.epoch != epoch_) return;
  DuplexTextEvent text{job.result.text, job.result.end_of_turn};
  if (!held_.empty() || (open_ && job.result.starts_turn)) {
    held_.push_back({job.unit, job.result.starts_turn, std::move(text)});
  } else {
    say(job.unit, std::move(text));
  }
}

void DuplexOutput::end_turn(int64_t unit, bool interrupted) {
  put(unit, epoch_, DuplexTurnEndEvent{interrupted});
  put(unit, epoch_, DuplexStateEvent{false});
  open_ = false;
}

// The turn behind one that has ended. Its first unit opens it; the first of a third one stays.
void DuplexOutput::release_held() {
  while (!held_.empty() && !(open_ && held_.front().starts_turn)) {
    Held held = std::move(held_.front());
    held_.pop_front();
    say(held.unit, std::move(held.text));
  }
}

void DuplexOutput::done(DuplexJob& job, int queued) {
  std::unique_lock lock(mutex_);
  if (!wait_for_room(lock)) return;
  last_unit_ = std::max(last_unit_, job.unit);
  if (job.epoch == epoch_) {
    if (!job.result.is_listen) {
      if (!job.wave.empty()) {
        put(job.unit, epoch_,
            DuplexAudioEvent{std::move(job.wave), !std::exchange(has_sound_, true), job.result.end_of_turn});
      }
      if (job.result.end_of_turn) end_turn(job.unit, false);
    } else if (open_ && job.unit > turn_unit_) {
      end_turn(job.unit, true);  // the model listens without having ended its turn
    }
  }
  measure(job, queued);
  release_held();
}

void DuplexOutput::measure(const DuplexJob& job, int queued) {
  const DuplexClock::time_point now = DuplexClock::now();
  const bool listens = job.result.is_listen;
  const double latency = span_of((listens ? job.decided : now) - job.pushed);
  DuplexUnitEvent event;
  event.encode_ms = job.encode_seconds * 1000;
  event.decide_ms = job.decide_seconds * 1000;
  event.speak_ms = job.speak_seconds * 1000;
  event.render_ms = job.render_seconds * 1000;
  event.latency_ms = latency * 1000;
  event.queued_units = queued;
  event.cache_length = job.cache_length;
  event.cache_capacity = job.cache_capacity;
  event.is_listen = listens;
  event.dropped_frames = job.dropped_frames;
  event.text_tokens = static_cast<int>(job.result.spoken_ids.size());
  event.speech_tokens = static_cast<int>(job.tokens.size());
  put(job.unit, job.epoch, event);
  if (!degrades_) return;
  const double work = job.encode_seconds + job.decide_seconds + job.speak_seconds + job.render_seconds;
  const double slowest =
      std::max({job.encode_seconds, job.decide_seconds, job.speak_seconds, job.render_seconds});
  if (degradation_.observe(seconds(now), latency - work, slowest)) announce_level(job.unit);
}

void DuplexOutput::announce_level(int64_t unit) {
  put(unit, epoch_, DuplexDegradedEvent{degradation_.level(), degradation_.reason()});
}

void DuplexOutput::input_dropped(int64_t unit, int64_t count, bool overflow) {
  const std::scoped_lock lock(mutex_);
  if (ended_ || closed_) return;
  // Whoever pushes never waits. One event tells of all until the reader comes.
  const auto lost = static_cast<double>(count);
  auto* last = events_.empty() ? nullptr : std::get_if<DuplexInputDroppedEvent>(&events_.back().what);
  if (last != nullptr) {
    last->seconds += lost;
  } else {
    put(unit, epoch_, DuplexInputDroppedEvent{lost});
  }
  if (overflow && degrades_ && degradation_.input_dropped(seconds(DuplexClock::now()))) announce_level(unit);
}

void DuplexOutput::finish() {
  const std::scoped_lock lock(mutex_);
  while (!ended_ && !closed_ && open_) {
    end_turn(last_unit_, true);
    release_held();
  }
  ended_ = true;
  filled_.notify_all();
  room_.notify_all();
}

void DuplexOutput::fail(ErrorCode code, const std::string& message) {
  const std::scoped_lock lock(mutex_);
  if (!failure_ && !ended_ && !closed_) failure_.emplace(code, message);
  ended_ = true;
  filled_.notify_all();
  room_.notify_all();
}

// ---- users ----

void DuplexOutput::interrupt() {
  const std::scoped_lock lock(mutex_);
  if (ended_ || closed_) return;
  ++epoch_;
  force_listen_ = true;
  // What is not read yet: text and sound go; the rest stays and, measurements apart, belongs to the new
  // epoch. A turn that lost some of its text or sound was interrupted.
  bool lost = false;
  size_t kept = 0;
  for (DuplexEvent& event : events_) {
    const bool is_output = std::holds_alternative<DuplexTextEvent>(event.what) ||
                           std::holds_alternative<DuplexAudioEvent>(event.what);
    lost |= is_output;
    if (is_output) continue;
    if (auto* end = std::get_if<DuplexTurnEndEvent>(&event.what)) {
      end->interrupted |= std::exchange(lost, false);
    }
    if (!std::holds_alternative<DuplexUnitEvent>(event.what)) event.epoch = epoch_;
    if (&events_[kept] != &event) events_[kept] = std::move(event);
    ++kept;
  }
  events_.resize(kept);
  held_.clear();
  if (open_) end_turn(last_unit_, true);
  room_.notify_all();
}

void DuplexOutput::close() {
  const std::scoped_lock lock(mutex_);
  closed_ = true;
  events_.clear();
  held_.clear();
  filled_.notify_all();
  room_.notify_all();
}

DuplexSession::Poll DuplexOutput::poll(DuplexEvent& event, std::chrono::duration<double> timeout) {
  // Longer waits than a day would overflow the clock.
  timeout = std::clamp(timeout, std::chrono::duration<double>(0), std::chrono::duration<double>(86400));
  std::unique_lock lock(mutex_);
  const auto ready = [&] { return !events_.empty() || ended_ || closed_; };
  if (!filled_.wait_for(lock, timeout, ready)) return DuplexSession::Poll::nothing;
  if (!events_.empty()) {
    event = std::move(events_.front());
    events_.pop_front();
    room_.notify_all();
    return DuplexSession::Poll::event;
  }
  rethrow();
  return DuplexSession::Poll::end;
}

void DuplexOutput::rethrow() const {
  if (failure_) throw Error(failure_->code(), failure_->what());
}

void DuplexOutput::throw_failure() const {
  const std::scoped_lock lock(mutex_);
  rethrow();
}

int64_t DuplexOutput::epoch() const {
  const std::scoped_lock lock(mutex_);
  return epoch_;
}

bool DuplexOutput::is_speaking() const {
  const std::scoped_lock lock(mutex_);
  return open_;
}

DuplexLevel DuplexOutput::level() const {
  const std::scoped_lock lock(mutex_);
  return degradation_.level();
}

void DuplexOutput::set_available(DuplexLevel level, bool available) {
  const std::scoped_lock lock(mutex_);
  degradation_.set_available(level, available);
}

}  // namespace omni
