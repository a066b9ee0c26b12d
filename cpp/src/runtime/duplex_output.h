// runtime/duplex_output.h - the last gate of a session: what comes out, in which order, and what doesn't.
#pragma once

#include "omni/duplex_session.h"
#include "omni/error.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/degradation.h"

namespace omni {

using DuplexClock = std::chrono::steady_clock;

// One second on its way through the stages.
struct DuplexJob {
  int64_t unit = 0;
  int64_t epoch = 0;               // when it was decided
  DuplexClock::time_point pushed;  // its last sample
  DuplexClock::time_point decided;
  DuplexUnitInput input;
  DuplexEncodedUnit encoded;
  DuplexResult result;
  bool is_spoken = false;  // by the speech stage
  std::vector<int32_t> tokens;
  std::vector<float> wave;
  double encode_seconds = 0;
  double decide_seconds = 0;
  double speak_seconds = 0;
  double render_seconds = 0;
  int64_t cache_length = 0;
  int64_t cache_capacity = 0;
  int dropped_frames = 0;

  void clear();  // as new, but keeps memory
};

// Stages hand in text and finished units; a reader takes events. A turn's events come in their order and
// before those of the next turn: text that a later turn has already waits until the sound before is out.
class DuplexOutput {
 public:
  // With a limit the stages wait while so many events are not read.
  DuplexOutput(std::optional<size_t> limit, bool degrades);

  // ---- stages ----

  struct Start {
    int64_t epoch;
    bool force_listen;
  };
  Start begin_unit();
  void said(const DuplexJob& job);
  // `queued`: units behind this one. Takes the job's sound.
  void done(DuplexJob& job, int queued);
  // `unit` and those after it were not heard; `overflow`: for want of room.
  void input_dropped(int64_t unit, int64_t count, bool overflow);
  void finish();  // nothing more will come
  void fail(ErrorCode code, const std::string& message);

  // ---- users ----

  void interrupt();
  void close();
  DuplexSession::Poll poll(DuplexEvent& event, std::chrono::duration<double> timeout);
  void throw_failure() const;  // if there was one

  int64_t epoch() const;
  bool is_speaking() const;
  DuplexLevel level() const;
  void set_available(DuplexLevel level, bool available);

 private:
  struct Held {
    int64_t unit;
    bool starts_turn;
    DuplexTextEvent text;
  };

  bool wait_for_room(std::unique_lock<std::mutex>& lock);
  template <typename What>
  void put(int64_t unit, int64_t epoch, What&& what);
  void say(int64_t unit, DuplexTextEvent&& text);
  void end_turn(int64_t unit, bool interrupted);
  void release_held();
  void measure(const DuplexJob& job, int queued);
  void announce_level(int64_t unit);
  double seconds(DuplexClock::time_point time) const;
  void rethrow() const;

  const std::optional<size_t> limit_;
  const bool degrades_;
  const DuplexClock::time_point start_;
  mutable std::mutex mutex_;
  std::condition_variable filled_;
  std::condition_variable room_;
  std::deque<DuplexEvent> events_;
  std::deque<Held> held_;
  Degradation degradation_;
  int64_t epoch_ = 0;
  bool force_listen_ = false;
  bool open_ = false;       // a turn has come out and not ended
  int64_t turn_unit_ = 0;   // where it began
  bool has_sound_ = false;  // the turn has
  int64_t last_unit_ = 0;   // the last that was decided
  bool ended_ = false;
  bool closed_ = false;
  std::optional<Error> failure_;
};

}  // namespace omni
