// audio/mel_stream.cpp - log-mel chunks of an endless stream, computed once a frame.
#include "omni/error.h"

#include <algorithm>
#include <cmath>

#include "audio/log_mel.h"

namespace omni {
namespace {

constexpr int64_t kChunkFrames = 100;
constexpr int64_t kChunkSamples = kChunkFrames * kMelHop;
constexpr int64_t kSlideFrom = 30 * kAudioRate;   // a buffer this long loses its oldest
constexpr int64_t kSlideBy = 10 * kAudioRate;     // 10 s
constexpr int64_t kDynamicFrom = 5 * kAudioRate;  // a shorter buffer has a fixed floor
constexpr int64_t kEdgeFrames = 2;                // frames whose window reaches over the buffer's start
constexpr int64_t kMaxContext = 8;
// Columns kept: a chunk, its context, and the next chunk's frames whose samples came with the first chunk.
constexpr int64_t kRing = 128;

}  // namespace

// Normalisation depends on the window's maximum, so columns are kept as logarithms, and of each frame in the
// window its maximum. Everything is computed once, except the frames at the window's edges (spec of the
// reference: it transforms the whole window anew each second, reflected at both ends).
struct MelStream::State {
  State(const LogMel& log_mel, const MelStreamOptions& stream_options)
      : mel(log_mel.impl_), options(stream_options), work(mel->make_work()) {
    const int64_t context = options.context_frames;
    require(context >= 0 && context <= kMaxContext, ErrorCode::invalid_argument,
            "context_frames must be 0 to ", kMaxContext, ", not ", context);
    // The last frame of the context must be stable: no sample of its window is missing.
    const int64_t least = (kChunkFrames + context - 1) * kMelHop + kMelWindow / 2;
    const int64_t most = (kRing - context) * kMelHop;
    require(options.first_chunk_samples >= least && options.first_chunk_samples <= most,
            ErrorCode::invalid_argument, "first_chunk_samples must be ", least, " to ", most, ", not ",
            options.first_chunk_samples);
    require(options.lead_in_samples >= 0 && options.lead_in_samples < options.first_chunk_samples,
            ErrorCode::invalid_argument, "lead_in_samples must be 0 to first_chunk_samples, not ",
            options.lead_in_samples);
    const auto bands = mel->n_bands();
    samples.reserve(static_cast<size_t>(kSlideFrom + 2 * kChunkSamples));
    loudest.resize(static_cast<size_t>((kSlideFrom + 2 * kChunkSamples) / kMelHop));
    ring.resize(static_cast<size_t>(kRing) * bands);
    edge.resize(bands);
    out.resize(static_cast<size_t>(kChunkFrames + 2 * context) * bands);
    reset();
  }

  void reset() {
    samples.assign(static_cast<size_t>(options.lead_in_samples), 0.0F);
    length = 0;
    base = 0;
    computed = 0;
    next = 0;
    pushed = false;
    flushed = false;
  }

  int64_t wanted() const { return next == 0 ? options.first_chunk_samples : kChunkSamples; }
  int64_t waiting() const { return static_cast<int64_t>(samples.size()) - length; }
  float* ring_column(int64_t frame) {
    return ring.data() + static_cast<size_t>(frame % kRing) * mel->n_bands();
  }

  void slide() {
    samples.erase(samples.begin(), samples.begin() + kSlideBy);
    length -= kSlideBy;
    constexpr int64_t kFrames = kSlideBy / kMelHop;
    std::copy(loudest.begin() + kFrames, loudest.end(), loudest.begin());
    base += kFrames;
    // Reflection at the new start changes these frames. They were emitted long ago, but count for the
    // maximum.
    for (int64_t t = 0; t < kEdgeFrames; ++t) {
      loudest[static_cast<size_t>(t)] = mel->column(window(), length, t, edge.data(), work);
    }
  }

  std::span<const float> window() const { return std::span(samples).first(static_cast<size_t>(length)); }

  // One step of the reference's processor with `count` more of the waiting samples.
  MelChunk process(int64_t count) {
    length += count;
    if (length >= kSlideFrom) slide();
    const int64_t frames =
        length / kMelHop;  // the last one reflects at the end unless its window is complete
    const int64_t stable = std::min(frames, (length - kMelWindow / 2) / kMelHop + 1);
    for (int64_t t = computed - base; t < frames; ++t) {
      loudest[static_cast<size_t>(t)] = mel->column(window(), length, t, ring_column(base + t), work);
    }
    computed = base + stable;

    MelChunk chunk;
    chunk.first_frame = std::max<int64_t>(0, next - options.context_frames);
    const int64_t end = std::min(next + kChunkFrames + options.context_frames, base + frames);
    chunk.frames = std::max<int64_t>(0, end - chunk.first_frame);
    chunk.prefix = static_cast<int>(next - chunk.first_frame);
    chunk.suffix = static_cast<int>(std::max<int64_t>(0, end - (next + kChunkFrames)));
    chunk.new_samples = count;
    chunk.dynamic = length >= kDynamicFrom;
    next += kChunkFrames;

    const float maximum = *std::max_element(loudest.begin(), loudest.begin() + frames);
    const float floor = chunk.dynamic ? maximum - kDynamicRange : kLogFloor;
    const auto width = static_cast<size_t>(chunk.frames);
    for (size_t t = 0; t < width; ++t) {
      const float* column = ring_column(chunk.first_frame + static_cast<int64_t>(t));
      for (size_t m = 0; m < mel->n_bands(); ++m) out[m * width + t] = normalised(column[m], floor);
    }
    chunk.data = std::span(out).first(width * mel->n_bands());
    return chunk;
  }

  std::shared_ptr<const LogMel::Impl> mel;
  MelStreamOptions options;
  LogMel::Impl::Work work;

  std::vector<float> samples;  // the window, then samples that wait for their chunk
  std::vector<float> loudest;  // largest value of each frame of the window
  std::vector<float> ring;     // [bins, kRing] log10 power of the latest frames
  std::vector<float> edge;     // [bins] a column that nobody sees
  std::vector<float> out;      // [frames, bins] the chunk given out last
  int64_t length = 0;          // samples of the window
  int64_t base = 0;            // frame of the stream at the window's start
  int64_t computed = 0;        // frames of the stream whose columns are final
  int64_t next = 0;            // first frame of the next chunk
  bool pushed = false;
  bool flushed = false;
};

MelStreamOptions MelStreamOptions::named(const std::string& mode) {
  if (mode == "simplex") return simplex();
  if (mode == "duplex") return duplex();
  fail(ErrorCode::invalid_argument, "mode is \"simplex\" or \"duplex\", not \"", mode, "\"");
}

MelStream::MelStream(const LogMel& mel, MelStreamOptions options)
    : state_(std::make_unique<State>(mel, options)) {}
MelStream::~MelStream() = default;
MelStream::MelStream(const MelStream& other) : state_(std::make_unique<State>(*other.state_)) {
  // A copied vector has no spare room.
  state_->samples.reserve(static_cast<size_t>(kSlideFrom + 2 * kChunkSamples));
}
MelStream& MelStream::operator=(const MelStream& other) {
  if (this != &other) *this = MelStream(other);
  return *this;
}
MelStream::MelStream(MelStream&&) noexcept = default;
MelStream& MelStream::operator=(MelStream&&) noexcept = default;

int MelStream::bins() const {
  return state_->mel->bank.bands();
}
const MelStreamOptions& MelStream::options() const {
  return state_->options;
}
void MelStream::reset() {
  state_->reset();
}

std::optional<MelChunk> MelStream::push(std::span<const float>& samples) {
  State& s = *state_;
  require(!s.flushed, ErrorCode::invalid_argument,
          "the audio stream was flushed; reset it before the next push");
  const int64_t wanted = s.wanted();
  const auto taken = samples.first(
      std::min(samples.size(), static_cast<size_t>(std::max<int64_t>(0, wanted - s.waiting()))));
  require_finite(taken);
  s.samples.insert(s.samples.end(), taken.begin(), taken.end());
  s.pushed = s.pushed || !taken.empty();
  samples = samples.subspan(taken.size());
  if (s.waiting() < wanted) return std::nullopt;
  return s.process(wanted);
}

std::optional<MelChunk> MelStream::flush() {
  State& s = *state_;
  if (s.flushed || !s.pushed) return std::nullopt;
  s.flushed = true;
  if (s.next == 0) {
    const int64_t missing = s.options.lead_in_samples + kChunkSamples - s.waiting();
    if (missing > 0) s.samples.insert(s.samples.begin(), static_cast<size_t>(missing), 0.0F);
  }
  return s.process(std::min(s.waiting(), s.wanted()));
}

}  // namespace omni
