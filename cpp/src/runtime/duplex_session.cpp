// runtime/duplex_session.cpp - the threads of a full-duplex session.
#include "omni/duplex_session.h"

#include "omni/error.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "runtime/bounded_queue.h"
#include "runtime/duplex_output.h"

namespace omni {
namespace {

using JobPtr = std::unique_ptr<DuplexJob>;
using JobQueue = BoundedQueue<JobPtr>;

constexpr std::chrono::milliseconds kSlice{100};  // how long a push waits before it looks around

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds), start_(DuplexClock::now()) {}
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(DuplexClock::now() - start_).count(); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& seconds_;
  DuplexClock::time_point start_;
};

// Where the speech stage or the sound stage is in a turn. A turn is entered at its beginning only, and left
// by cancel() when it is interrupted: then at least one unit isn't wanted, the one that has to listen.
class StageTurn {
 public:
  // Whether the stage works on this unit. `wanted`: there is use for it.
  template <typename Stage>
  bool enter(Stage& stage, const DuplexJob& job, int64_t epoch, bool wanted) {
    const DuplexResult& unit = job.result;
    wanted = wanted && !unit.is_listen && job.epoch == epoch;
    if (in_turn_ && (!wanted || unit.starts_turn)) {
      stage.cancel();
      in_turn_ = false;
    }
    if (!wanted || !(in_turn_ || unit.starts_turn)) return false;
    in_turn_ = !unit.end_of_turn;
    return true;
  }

 private:
  bool in_turn_ = false;
};

DuplexSessionOptions checked(const DuplexSessionOptions& options) {
  const auto in_range = [](const char* name, int value, int low, int high) {
    require(value >= low && value <= high, ErrorCode::invalid_argument, name, " must be ", low, " to ", high,
            ", not ", value);
  };
  in_range("max_queued_units", options.max_queued_units, 1, 3600);
  in_range("max_frames_per_unit", options.max_frames_per_unit, 1, 64);
  in_range("max_slice_nums", options.max_slice_nums, 1, kMaxSliceNums);
  in_range("max_queued_events", options.max_queued_events, 16, 1 << 20);
  return options;
}

DuplexStages checked(DuplexStages stages) {
  require(stages.encoder && stages.decider, ErrorCode::invalid_argument,
          "a session needs an encoder and a language model");
  require(!stages.speech == !stages.sound, ErrorCode::invalid_argument,
          "speech needs its sound stage, and the sound stage speech");
  return stages;
}

}  // namespace

struct DuplexSession::Impl {
  Impl(DuplexStages given, const DuplexPrompt& prompt, const DuplexSessionOptions& asked)
      : options(checked(asked)),
        stages(checked(std::move(given))),
        output(options.real_time ? std::optional<size_t>(options.max_queued_events) : std::nullopt,
               options.real_time),
        captured(static_cast<size_t>(options.max_queued_units)) {
    std::vector<float> reference;
    if (!prompt.reference.empty()) reference = stages.encoder->encode_reference(prompt.reference);
    stages.decider->prepare(prompt, reference);
    if (stages.sound) {
      full_steps = steps_in_force = stages.sound->steps();
      const bool vary = options.real_time && full_steps > 1 && stages.sound->set_steps(fewer_steps());
      if (vary) stages.sound->set_steps(full_steps);
      output.set_available(DuplexLevel::fewer_steps, vary);
      output.set_available(DuplexLevel::text_only, true);
    }
  }
  ~Impl() { close(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  int fewer_steps() const { return (full_steps + 1) / 2; }

  void start() {
    try {
      threads[0] = std::thread([this] { run([this] { encode_all(); }); });
      threads[1] = std::thread([this] { run([this] { decide_all(); }); });
      if (!stages.sound) return;
      threads[2] = std::thread([this] { run([this] { speak_all(); }); });
      threads[3] = std::thread([this] { run([this] { render_all(); }); });
    } catch (const std::system_error& e) {
      close();
      fail(ErrorCode::internal, "can't start a thread: ", e.what());
    }
  }

  // ---- jobs ----

  JobPtr new_job() {
    const std::scoped_lock lock(pool_mutex);
    if (pool.empty()) return std::make_unique<DuplexJob>();
    JobPtr job = std::move(pool.back());
    pool.pop_back();
    return job;
  }
  void recycle(JobPtr job) {
    job->clear();
    const std::scoped_lock lock(pool_mutex);
    pool.push_back(std::move(job));
  }

  // ---- input ----

  void require_open() const {
    output.throw_failure();
    require(!closed, ErrorCode::cancelled, "the session is closed");
    require(!input_ended, ErrorCode::invalid_argument, "the session's input has ended");
  }

  // Lets one push go at a time.
  class PushTurn {
   public:
    PushTurn(Impl& session, const WhileWaiting& while_waiting) : session_(session) {
      std::unique_lock lock(session_.capture_mutex);
      while (!session_.next_push.wait_for(lock, kSlice, [&] { return !session_.pushing; })) {
        lock.unlock();
        if (while_waiting) while_waiting();
        lock.lock();
      }
      session_.pushing = true;
    }
    ~PushTurn() {
      const std::scoped_lock lock(session_.capture_mutex);
      session_.pushing = false;
      session_.next_push.notify_one();
    }
    PushTurn(const PushTurn&) = delete;
    PushTurn& operator=(const PushTurn&) = delete;

   private:
    Impl& session_;
  };

  DuplexJob& collecting_job() {
    if (!collecting) collecting = new_job();
    return *collecting;
  }

  void push_audio(std::span<const float> samples, const WhileWaiting& while_waiting) {
    const auto bad =
        std::find_if_not(samples.begin(), samples.end(), [](float s) { return std::isfinite(s); });
    require(bad == samples.end(), ErrorCode::invalid_argument, "sample ", bad - samples.begin(),
            " of the sound is not a finite number");
    const PushTurn turn(*this, while_waiting);
    require_open();
    while (!samples.empty()) {
      JobPtr full;
      {
        const std::scoped_lock lock(capture_mutex);
        std::vector<float>& audio = collecting_job().input.audio;
        const size_t n = std::min(samples.size(), static_cast<size_t>(kDuplexUnitSamples) - audio.size());
        audio.insert(audio.end(), samples.begin(), samples.begin() + static_cast<std::ptrdiff_t>(n));
        samples = samples.subspan(n);
        if (audio.size() == static_cast<size_t>(kDuplexUnitSamples)) full = std::move(collecting);
      }
      if (full) submit(std::move(full), while_waiting);
    }
  }

  void submit(JobPtr job, const WhileWaiting& while_waiting) {
    job->unit = next_unit++;
    job->pushed = DuplexClock::now();
    if (options.real_time) {
      JobPtr displaced;
      bool was_full = false;
      if (!captured.push_over(job, displaced, was_full)) require_open();
      if (!was_full) return;
      output.input_dropped(displaced->unit, 1, true);
      recycle(std::move(displaced));
      return;
    }
    try {
      auto pushed = JobQueue::Pushed::no_room;
      while ((pushed = captured.push_for(job, kSlice)) == JobQueue::Pushed::no_room) {
        if (while_waiting) while_waiting();
      }
      if (pushed == JobQueue::Pushed::ended) require_open();
    } catch (...) {
      output.input_dropped(job->unit, 1, false);
      throw;
    }
  }

  void push_frame(Image frame) {
    require(frame.width > 0 && frame.height > 0 &&
                frame.rgb.size() ==
                    size_t{3} * static_cast<size_t>(frame.width) * static_cast<size_t>(frame.height),
            ErrorCode::invalid_argument, "a frame of ", frame.width, " x ", frame.height,
            " pixels doesn't have ", frame.rgb.size(), " bytes");
    SliceOptions slicing;
    slicing.max_slice_nums = options.max_slice_nums;
    plan_slices({frame.width, frame.height}, slicing);
    const std::scoped_lock lock(capture_mutex);
    require_open();
    std::vector<Image>& frames = collecting_job().input.frames;
    if (frames.size() == static_cast<size_t>(options.max_frames_per_unit)) frames.erase(frames.begin());
    frames.push_back(std::move(frame));
    output.set_available(DuplexLevel::frames_dropped, true);
  }

  void end_input() {
    const std::scoped_lock lock(capture_mutex);
    input_ended = true;
    captured.end();
  }

  // ---- stages, each on its thread ----

  void encode_all() {
    std::vector<float> silence;  // rows of a second
    for (JobPtr job; captured.pop(job);) {
      const DuplexLevel level = output.level();
      if (level >= DuplexLevel::half_duplex && turn_is_open) {
        const int64_t first = job->unit;
        int64_t unheard = 1;
        for (JobPtr later; captured.try_pop(later); ++unheard) {
          recycle(std::move(job));
          job = std::move(later);
        }
        output.input_dropped(first, unheard, false);
        const Stopwatch watch(job->encode_seconds);
        if (silence.empty()) {
          silence = stages.encoder->encode_reference(std::vector<float>(kDuplexUnitSamples, 0.0F));
        }
        drop_frames(*job);
        job->encoded.audio = silence;
      } else {
        if (level >= DuplexLevel::frames_dropped) drop_frames(*job);
        job->input.max_slice_nums = {options.max_slice_nums};
        const Stopwatch watch(job->encode_seconds);
        job->encoded = stages.encoder->encode(job->input);
      }
      if (!encoded.push(job)) return;
    }
    encoded.end();
  }

  static void drop_frames(DuplexJob& job) {
    job.dropped_frames = static_cast<int>(job.input.frames.size());
    job.input.frames.clear();
  }

  void decide_all() {
    for (JobPtr job; encoded.pop(job);) {
      const DuplexOutput::Start start = output.begin_unit();
      job->epoch = start.epoch;
      {
        const Stopwatch watch(job->decide_seconds);
        job->result = stages.decider->step(job->encoded, start.force_listen);
      }
      job->decided = DuplexClock::now();
      job->cache_length = stages.decider->cache_length();
      job->cache_capacity = stages.decider->cache_capacity();
      turn_is_open = stages.decider->turn_is_open();
      ++decided_units;
      if (!job->result.is_listen) output.said(*job);
      if (!stages.sound) {
        done(std::move(job));
      } else if (!decided.push(job)) {
        return;
      }
    }
    if (stages.sound) {
      decided.end();
    } else {
      output.finish();
    }
  }

  void speak_all() {
    StageTurn turn;
    for (JobPtr job; decided.pop(job);) {
      const bool wanted = output.level() < DuplexLevel::text_only;
      if (turn.enter(*stages.speech, *job, output.epoch(), wanted)) {
        const Stopwatch watch(job->speak_seconds);
        stages.speech->speak(job->result, job->tokens);
        job->is_spoken = true;
      }
      if (!spoken.push(job)) return;
    }
    spoken.end();
  }

  void render_all() {
    StageTurn turn;
    for (JobPtr job; spoken.pop(job);) {
      if (turn.enter(*stages.sound, *job, output.epoch(), job->is_spoken)) {
        const Stopwatch watch(job->render_seconds);
        const DuplexResult& unit = job->result;
        if (unit.starts_turn) choose_steps();
        stages.sound->render(job->tokens, unit.starts_turn, unit.end_of_turn, job->wave);
      }
      done(std::move(job));
    }
    output.finish();
  }

  void choose_steps() {
    const int steps = output.level() >= DuplexLevel::fewer_steps ? fewer_steps() : full_steps;
    if (steps != steps_in_force && stages.sound->set_steps(steps)) steps_in_force = steps;
  }

  void done(JobPtr job) {
    output.done(*job, static_cast<int>(captured.size() + encoded.size()));
    recycle(std::move(job));
  }

  // ---- the end ----

  template <typename Body>
  void run(const Body& body) {
    try {
      body();
      return;
    } catch (const Error& e) {
      output.fail(e.code(), e.what());
    } catch (const std::bad_alloc&) {
      output.fail(ErrorCode::out_of_memory, "not enough memory for the session");
    } catch (const std::exception& e) {
      output.fail(ErrorCode::internal, e.what());
    } catch (...) {
      output.fail(ErrorCode::internal, "an unknown exception in the session");
    }
    close_queues();
  }

  void close_queues() {
    captured.close();
    encoded.close();
    decided.close();
    spoken.close();
  }

  void close() {
    closed = true;
    output.close();
    close_queues();
    const std::scoped_lock lock(join_mutex);
    for (std::thread& thread : threads) {
      if (thread.joinable()) thread.join();
    }
  }

  const DuplexSessionOptions options;
  DuplexStages stages;
  DuplexOutput output;

  std::mutex capture_mutex;
  std::condition_variable next_push;
  bool pushing = false;
  JobPtr collecting;      // the unit that is not full yet
  int64_t next_unit = 0;  // of whoever pushes

  JobQueue captured;    // full units
  JobQueue encoded{1};  // the next unit waits here while one is answered
  JobQueue decided{2};
  JobQueue spoken{2};
  std::mutex pool_mutex;
  std::vector<JobPtr> pool;  // jobs to use again

  int full_steps = 0;
  int steps_in_force = 0;
  std::atomic<bool> closed{false};
  std::atomic<bool> input_ended{false};
  std::atomic<bool> turn_is_open{false};  // as of the last decision
  std::atomic<int64_t> decided_units{0};
  std::mutex join_mutex;
  std::array<std::thread, 4> threads;
};

DuplexSession::DuplexSession(DuplexStages stages, const DuplexPrompt& prompt,
                             const DuplexSessionOptions& options)
    : impl_(std::make_unique<Impl>(std::move(stages), prompt, options)) {
  impl_->start();
}

DuplexSession::~DuplexSession() = default;

void DuplexSession::push_audio(std::span<const float> samples, const WhileWaiting& while_waiting) {
  impl_->push_audio(samples, while_waiting);
}
void DuplexSession::push_frame(Image frame) {
  impl_->push_frame(std::move(frame));
}
void DuplexSession::end_input() {
  impl_->end_input();
}
void DuplexSession::interrupt() {
  impl_->output.interrupt();
}
void DuplexSession::close() {
  impl_->close();
}
DuplexSession::Poll DuplexSession::poll(DuplexEvent& event, std::chrono::duration<double> timeout) {
  return impl_->output.poll(event, timeout);
}
int64_t DuplexSession::epoch() const {
  return impl_->output.epoch();
}
bool DuplexSession::is_speaking() const {
  return impl_->output.is_speaking();
}
int64_t DuplexSession::units() const {
  return impl_->decided_units;
}
DuplexLevel DuplexSession::level() const {
  return impl_->output.level();
}

}  // namespace omni
