// The audio encoder: sound to embeddings for the language model, ten a second.
//
// A Whisper encoder (two convolutions, pre-norm transformer) whose positions, 50 a second, go through a
// projection of two layers and are averaged five by five.
#pragma once

#include "omni/audio.h"
#include "omni/devices.h"
#include "omni/export.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace omni {

struct AudioEncoderOptions {
  // How weights are held: "stored" (as in the file), "bf16", "q8_0", or "auto": F16 as BF16 where the
  // processor multiplies BF16 natively (see kernels/linear.h).
  std::string weight_format = "auto";
  bool repack = true;           // let quantised weights be copied into a layout with faster kernels
  std::string kv_type = "f16";  // how a stream keeps keys and values: "f32" or "f16"
  DeviceOptions device;
};

// What an encoder is made of, from its file.
struct AudioEncoderInfo {
  int64_t n_layers = 0;
  int64_t width = 0;  // of the transformer
  int64_t n_heads = 0;
  int64_t ffn_width = 0;
  int64_t n_positions = 0;  // rows of the position table: 30 s
  int64_t bins = 0;         // mel bands
  int64_t pool = 0;         // positions that make one embedding
  int64_t embed_width = 0;  // D, the size of an embedding
  uint64_t parameters = 0;
  uint64_t file_bytes = 0;
  uint64_t copied_bytes = 0;  // weights held a second time, converted or repacked
  // What every pass multiplies with: bytes, and the type that most of it has.
  uint64_t matrix_bytes = 0;
  std::string matrix_type;
};

// Sizes for an encoder with random weights, to measure a machine without a file. Defaults: MiniCPM-o 4.5.
struct SyntheticAudioEncoder {
  std::string type = "F16";  // F32, F16, BF16 or Q8_0
  int64_t n_layers = 24;
  int64_t width = 1024;
  int64_t n_heads = 16;
  int64_t embed_width = 4096;
};

// What lies between a clip and its embeddings, for inspection and tests. Rows are frames or positions.
struct AudioStages {
  std::vector<float> conv1;      // [width, frames] before GELU
  std::vector<float> conv2;      // [width, positions] before GELU
  std::vector<float> layer0;     // [width, positions]
  std::vector<float> encoded;    // [width, positions] after the final norm
  std::vector<float> projected;  // [embed_width, positions] before the average
  std::vector<float> embeds;     // [embed_width, n]
};

class AudioStream;

// Weights of an encoder; any number of streams share it. Calls from several threads run one after another.
class OMNI_API AudioEncoder : public std::enable_shared_from_this<AudioEncoder> {
 public:
  // Opens a GGUF file. Throws Error: file, format, unsupported, out_of_memory, invalid_argument.
  static std::shared_ptr<AudioEncoder> open(const std::string& path, const AudioEncoderOptions& options = {});
  // An encoder with random weights of the given sizes, in memory.
  static std::shared_ptr<AudioEncoder> synthetic(const SyntheticAudioEncoder& sizes,
                                                 const AudioEncoderOptions& options = {});
  ~AudioEncoder();
  AudioEncoder(const AudioEncoder&) = delete;
  AudioEncoder& operator=(const AudioEncoder&) = delete;

  const AudioEncoderInfo& info() const;
  std::string device_name() const;
  const LogMel& mel() const;

  // Embeddings that encode() makes of a clip: audio_embedding_count() with this encoder's pooling.
  int64_t embedding_count(int64_t samples) const;

  // Embeddings of a clip, [embed_width, embedding_count(samples)]. A position sees those of its own chunk of
  // `chunk_seconds` and of earlier ones; without a value, all of them. Pieces of 30 s are encoded one by one,
  // each with positions of its own. Throws Error(invalid_argument) if the clip is empty or not finite.
  std::vector<float> encode(std::span<const float> samples, std::optional<double> chunk_seconds = 1.0) const;

  // Embeddings of the clips of one request, clip after clip. They differ slightly from those of single clips:
  // the reference pads a batch to its longest piece and lets padded positions be seen, and this does the
  // same.
  std::vector<float> encode_batch(std::span<const std::span<const float>> clips,
                                  std::optional<double> chunk_seconds = 1.0) const;

  // Every stage of one clip of at most 30 s.
  AudioStages inspect(std::span<const float> samples, std::optional<double> chunk_seconds = 1.0) const;

  // A new stream.
  std::unique_ptr<AudioStream> stream(const MelStreamOptions& options = MelStreamOptions::simplex());

  struct Impl;

 private:
  explicit AudioEncoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Encodes endless sound second by second: what enters as one second leaves as 10 embeddings (35 ms of zeros
// are put before the first sample). Positions see those of their own second and of all earlier ones since the
// last reset; when the position table is used up, after 29 s, the past is dropped and positions start again.
// What comes out does not depend on how the sound is cut into pushes. One thread at a time; keeps its encoder
// alive.
class OMNI_API AudioStream {
 public:
  ~AudioStream();
  AudioStream(const AudioStream&) = delete;
  AudioStream& operator=(const AudioStream&) = delete;

  // Takes samples and appends the embeddings that are complete to `embeds`, [embed_width, k]; returns k,
  // which may be 0. Throws Error(invalid_argument), the stream unchanged, if a sample is not finite or the
  // stream was flushed.
  int64_t push(std::span<const float> samples, std::vector<float>& embeds);
  // Ends the stream with what is left of a second.
  int64_t flush(std::vector<float>& embeds);
  // Forgets everything: a new stream.
  void reset();
  // A copy with a state of its own.
  std::unique_ptr<AudioStream> clone() const;

  int64_t length() const;  // positions that the next second will see
  // Encoder output of the last chunk, [width, positions], for inspection.
  std::span<const float> encoded() const;

  struct State;

 private:
  friend class AudioEncoder;
  explicit AudioStream(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace omni
