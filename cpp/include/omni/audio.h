// Log-mel features of sound: whole clips and streams, by one implementation.
//
// Sound is mono, 16 kHz, float in [-1, 1]. Features are those of the published feature extractor: 25 ms
// periodic Hann windows every 10 ms, reflected at the edges, 80 Slaney mel bands, log10 with a floor, (v + 4)
// / 4.
#pragma once

#include "omni/export.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace omni {

inline constexpr int kAudioRate = 16000;  // samples a second
inline constexpr int kMelWindow = 400;    // samples a frame sees, and the length of its transform
inline constexpr int kMelHop = 160;       // samples from frame to frame
inline constexpr int kMelBins = 80;       // bands of the published model
inline constexpr int kSpectrumBins = kMelWindow / 2 + 1;  // frequencies 0, 40, .. 8000 Hz
inline constexpr int kClipSamples = 30 * kAudioRate;      // longer clips are cut into pieces of 30 s
inline constexpr int kMinClipSamples = 1600;              // shorter clips are encoded as if zeros followed

// Mel frames of a clip: ceil(samples / 160).
OMNI_API int64_t mel_frame_count(int64_t samples);
// Positions that the encoder makes of mel frames (its second convolution has stride 2): ceil(frames / 2).
OMNI_API int64_t audio_position_count(int64_t mel_frames);
// Embeddings of a clip, which is also the number of its placeholder tokens: 10 a second for the published
// pooling of 5 positions. Clips shorter than kMinClipSamples count as that long. Throws
// Error(invalid_argument) for samples < 1 or pool < 1.
OMNI_API int64_t audio_embedding_count(int64_t samples, int pool = 5);

// Throws Error(invalid_argument) naming the first sample that is NaN or infinite.
OMNI_API void require_finite(std::span<const float> samples);

// Features of `frames` consecutive frames.
struct Mel {
  int64_t frames = 0;
  int bins = 0;
  std::vector<float> data;  // [frames, bins]: all frames of the lowest band, then of the next
};

// The triangles of the published extractor (Slaney scale and normalisation, 0 to 8000 Hz): [201, bins].
OMNI_API std::vector<float> mel_filter_bank(int bins = kMelBins);

// Tables of the transform. Immutable and cheap to copy; safe to use from several threads.
class OMNI_API LogMel {
 public:
  LogMel();
  // With the filters of a model file, [201, bins]. Throws Error(format) unless they are a finite,
  // non-negative multiple of 201 values.
  explicit LogMel(std::span<const float> filters);

  int bins() const;

  // Features of a whole clip, mel_frame_count(samples) frames. Pieces of 30 s are independent: each is
  // floored at its own maximum - 8 (in log10 units). Throws Error(invalid_argument) if the clip is empty or
  // not finite.
  Mel clip(std::span<const float> samples) const;

  // The same of a clip that ends with its last sample: one piece of any length, reflected at both ends, with
  // samples / 160 frames (rounded down). The speech tokenizer sees sound so. Throws Error(invalid_argument)
  // if the clip has 200 samples or fewer, or is not finite.
  Mel reflected(std::span<const float> samples) const;

 private:
  friend class MelStream;
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

// The rules of one kind of stream. One second enters, one second of features leaves; 35 ms stay inside.
struct MelStreamOptions {
  int context_frames = 0;           // frames of the neighbouring seconds on each side of a chunk
  int lead_in_samples = 560;        // zeros before the first sample: 35 ms
  int first_chunk_samples = 16560;  // lead-in included; later chunks take a second each

  // As MiniCPMO.streaming_prefill: no context.
  static MelStreamOptions simplex() { return {}; }
  // As MiniCPMODuplex: 20 ms of context, so that convolutions over a chunk have no seams. The first chunk is
  // a whole number of hops, hence 80 samples always wait for the next chunk.
  static MelStreamOptions duplex() { return {.context_frames = 2, .first_chunk_samples = 16480}; }
  // By name: "simplex" or "duplex". Throws Error(invalid_argument) for others.
  OMNI_API static MelStreamOptions named(const std::string& mode);
};

// One chunk of a stream. The data live in the stream until its next call.
struct MelChunk {
  int64_t first_frame = 0;      // index in the stream, context included
  int64_t frames = 0;           // context included
  int prefix = 0;               // context frames before the chunk's own 100
  int suffix = 0;               // and after
  int64_t new_samples = 0;      // samples that entered since the last chunk, lead-in included
  bool dynamic = false;         // floored at the window's maximum - 8; else (the first 5 s) fixed at -10
  std::span<const float> data;  // [frames, bins]
};

// Features of an endless stream, in chunks of 100 frames. What comes out depends on the samples alone, not on
// how they are cut into pushes. Frames equal those of one transform of the whole stream except for the floor,
// which follows the loudest frame of the last 20 to 30 s (and of the frame at the window's edge, whose
// reflected samples count too). A copy is a snapshot. No call allocates memory after construction.
class OMNI_API MelStream {
 public:
  explicit MelStream(const LogMel& mel, MelStreamOptions options = MelStreamOptions::simplex());
  ~MelStream();
  MelStream(const MelStream& other);
  MelStream& operator=(const MelStream& other);
  MelStream(MelStream&&) noexcept;
  MelStream& operator=(MelStream&&) noexcept;

  int bins() const;
  const MelStreamOptions& options() const;

  // Takes samples from the front of `samples` until a chunk is complete (then the rest stays in `samples`:
  // call again) or nothing is left (then there is no chunk yet). Throws Error(invalid_argument), the stream
  // unchanged, if a sample is not finite or the stream was flushed.
  std::optional<MelChunk> push(std::span<const float>& samples);

  // Ends the stream with a short chunk of what is left, its last frame reflected at the end. A stream that
  // ends within its first second is moved back to fill it: zeros are put before it. Nothing comes from a
  // stream without samples or one that was flushed before.
  std::optional<MelChunk> flush();

  // Forgets everything: a new stream.
  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace omni
