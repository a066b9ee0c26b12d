// A full-duplex session that runs by itself: sound and pictures are pushed in as they come, events come out.
//
// Input is cut into units of exactly one second. Each passes through four stages, each on a thread of its
// own: encoding, decision and text, speech tokens, sound; unit n + 1 is encoded while unit n is answered, and
// unit n is spoken while unit n + 1 is decided. Between the stages are short queues, and before them one of
// `max_queued_units`.
//
// Interruption: every output carries the epoch it belongs to. interrupt() begins a new epoch; what belongs to
// an older one is dropped at the last gate, wherever it was.
//
// When the machine can't keep up (units wait longer and longer), the session does less, in this order and one
// level at a time; levels that can't help are skipped, and it goes back when there is headroom again:
//   1 frames dropped     pictures are not encoded
//   2 fewer flow steps   half as many, from the next turn on
//   3 half duplex        while the model speaks it hears silence, and what waits is dropped
//   4 text only          answers are not spoken
// Each change is an event. If input comes that still can't be taken, the oldest unit goes, and an event says
// so. Nothing of this happens with real_time = false.
#pragma once

#include "omni/duplex_stages.h"
#include "omni/export.h"
#include "omni/vision.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace omni {

// How far a session has gone in doing less.
enum class DuplexLevel : int { full = 0, frames_dropped, fewer_steps, half_duplex, text_only };
// "full", "frames dropped", "fewer flow steps", "half duplex", "text only"
OMNI_API const char* name_of(DuplexLevel level);

// ---- events ----

// The model began or ended a turn.
struct DuplexStateEvent {
  bool speaking = false;
};
// New text of a speaking unit; may be empty. One for each speaking unit.
struct DuplexTextEvent {
  std::string text;
  bool end_of_turn = false;
};
struct DuplexAudioEvent {
  std::vector<float> samples;  // 24 kHz, never empty
  bool first = false;          // of a turn
  bool last = false;           // of a turn, unless the turn ends without sound
};
// After everything else of a turn; one for each turn. `interrupted`: by interrupt() or by the input's end.
struct DuplexTurnEndEvent {
  bool interrupted = false;
};
// One for each unit that was decided, in their order.
struct DuplexUnitEvent {
  double encode_ms = 0;  // work of each stage
  double decide_ms = 0;
  double speak_ms = 0;
  double render_ms = 0;
  double latency_ms = 0;  // from the unit's last sample to its decision, or to its sound if it speaks
  int queued_units = 0;   // waiting for their decision when this one was done
  int64_t cache_length = 0;
  int64_t cache_capacity = 0;
  bool is_listen = true;
  int dropped_frames = 0;
  int text_tokens = 0;  // spoken in this unit
  int speech_tokens = 0;
};
struct DuplexDegradedEvent {
  DuplexLevel level = DuplexLevel::full;
  std::string reason;
};
// Input that was not heard.
struct DuplexInputDroppedEvent {
  double seconds = 0;
};

struct DuplexEvent {
  int64_t unit = 0;   // which second of the input, from 0; dropped ones count
  int64_t epoch = 0;  // sound and text of an epoch before the session's are stale
  double time = 0;    // seconds since the session's start
  std::variant<DuplexStateEvent, DuplexTextEvent, DuplexAudioEvent, DuplexTurnEndEvent, DuplexUnitEvent,
               DuplexDegradedEvent, DuplexInputDroppedEvent>
      what;
};

// ---- the session ----

struct DuplexSessionOptions {
  // False: nothing is dropped and nothing degrades, push_audio() blocks while queues are full, and events
  // wait for their reader without limit.
  bool real_time = true;
  int max_queued_units = 4;     // complete units that wait to be encoded
  int max_frames_per_unit = 1;  // the latest of them count
  int max_slice_nums = 1;       // of each frame
  int max_queued_events = 256;  // with real_time the stages wait for a reader that is so far behind
};

// All functions may be called from any thread. An error in a stage ends the session; it is thrown by poll()
// once the events before it are read, and by the functions that push.
class OMNI_API DuplexSession {
 public:
  // Called while a push waits, some ten times a second; may throw to give up.
  using WhileWaiting = std::function<void()>;
  enum class Poll { event, nothing, end };

  // Feeds the prompt, then starts the threads. Throws what the stages throw, and Error(invalid_argument).
  // Without speech or sound answers are text only.
  DuplexSession(DuplexStages stages, const DuplexPrompt& prompt, const DuplexSessionOptions& options = {});
  ~DuplexSession();  // close()
  DuplexSession(const DuplexSession&) = delete;
  DuplexSession& operator=(const DuplexSession&) = delete;

  // Any number of samples, 16 kHz mono. With real_time it never blocks. One push after another: those of
  // several threads don't mix. Throws Error(invalid_argument), nothing taken, if a sample is not finite or
  // the input has ended; Error(cancelled) if the session is closed.
  void push_audio(std::span<const float> samples, const WhileWaiting& while_waiting = {});
  // A picture of the unit that is being collected. Throws Error(invalid_argument) for one that can't be
  // encoded, and as push_audio.
  void push_frame(Image frame);
  // No more input. What is left of a second is dropped; what came before is still answered.
  void end_input();
  // Ends the turn now: no more of its text and sound comes out, and the next unit listens.
  void interrupt();
  // Stops everything and waits for the threads, no longer than the work in hand takes. Events that wait are
  // dropped.
  void close();

  // The next event. `nothing`: there was none in time; `end`: there will be none.
  Poll poll(DuplexEvent& event, std::chrono::duration<double> timeout = {});

  int64_t epoch() const;     // how often it was interrupted
  bool is_speaking() const;  // a turn's text or sound has come out and its end has not
  int64_t units() const;     // decided
  DuplexLevel level() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
