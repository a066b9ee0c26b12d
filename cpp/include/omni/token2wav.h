// Speech tokens to sound: 25 tokens a second in, 24 kHz out, in the voice of a reference recording.
#pragma once

#include "omni/devices.h"
#include "omni/export.h"
#include "omni/voice.h"

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace omni {

struct Token2WavOptions {
  // How float weights are held: "stored", "bf16", "q8_0" (the vocoder is never held in q8_0), or "auto": as
  // BF16 on the host processor, as stored elsewhere. With BF16 the flow's caches are BF16, too.
  std::string weight_format = "auto";
  // Which vocoder streams use: "causal", "original", or "auto" for the causal one if there is one.
  std::string vocoder = "auto";
  DeviceOptions device;
};

struct Token2WavStreamOptions {
  int steps = 10;     // of the flow; fewer are faster and less exact
  uint64_t seed = 0;  // of the vocoder's noise
  // Starts every turn with three tokens of silence, so that the first sound needs 25 tokens, not 28.
  bool silence = true;
  // The flow's noise [80, frames], frame after frame; empty: a fixed table.
  std::vector<float> noise;
  // Without it unvoiced speech has no excitation: for comparisons with a reference that silences it too.
  bool excitation = true;
};

struct Token2WavInfo {
  int64_t sample_rate = 24000;  // Hz
  int64_t token_rate = 25;      // tokens a second
  int64_t n_tokens = 0;         // speech tokens are 0 to n_tokens - 1
  int64_t look_ahead = 0;       // tokens after the last one that is computed
  bool has_causal = false;      // which vocoders there are
  bool has_original = false;
  uint64_t parameters = 0;
  size_t copied_bytes = 0;  // weights that were converted or rearranged, beyond the mapped files
  std::string matrix_type;  // that most of the flow's matrices have
};

// Sizes for networks with random weights, to measure a machine without files. Defaults: the published ones.
struct SyntheticToken2Wav {
  int64_t width = 512;  // of the flow's encoder and estimator
  int64_t head_dim = 64;
  int64_t ffn_width = 2048;
  int64_t n_layers = 6;     // of the encoder, at 25 tokens a second
  int64_t n_up_layers = 4;  // and at 50 frames a second
  int64_t n_blocks = 16;    // of the estimator
  int64_t channels = 512;   // of the vocoders
};

// What a measurement is held against.
struct Token2WavCost {
  double operations = 0;  // of matrix products; a multiply-add counts as two
  double bytes = 0;       // of weights read
};

class Token2Wav;

// One voice speaking, turn after turn.
//
// The sound depends on the tokens and on flush(), not on how the tokens are cut into push() calls. A turn of
// n tokens (silence included) gives 960 n samples, after 3840 samples of silence if it took more than one
// window.
class OMNI_API Token2WavStream {
 public:
  // Tokens of a regular window, and how many of them the next one sees again.
  static constexpr int64_t kWindow = 28;

  ~Token2WavStream();
  Token2WavStream(Token2WavStream&&) noexcept;

  // Appends to `wave` what the tokens [n] give so far, 24 kHz; it may be nothing. `last` ends the turn: all
  // that is left is given, and the next call starts a new turn. Throws Error(invalid_argument) for tokens out
  // of range; nothing is consumed then.
  void push(std::span<const int32_t> tokens, bool last, std::vector<float>& wave);
  // Speaks what is buffered without waiting for a whole window, as far as the look-ahead allows. The turn
  // goes on. Short windows sound a little worse.
  void flush(std::vector<float>& wave);
  // One window as it is, past the buffer: 5 to 35 tokens, of which the last three only serve the others, or
  // 1 to 32 that end the turn. For callers that cut windows themselves; not to be mixed with push().
  void window(std::span<const int32_t> tokens, bool last, std::vector<float>& wave);
  // Forgets the turn so far. The voice stays.
  void reset();
  // A copy with a state of its own.
  std::unique_ptr<Token2WavStream> clone() const;

  // Tokens that wait for their look-ahead.
  int64_t buffered() const;

  // For tests: mean and mel [80, frames] of the last window, frames in the flow's two kinds of caches.
  const std::vector<float>& last_mu() const;
  const std::vector<float>& last_mel() const;
  std::pair<int64_t, int64_t> cache_frames() const;

 private:
  friend class Token2Wav;
  struct State;
  explicit Token2WavStream(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The networks, loaded once and shared by streams. Calls from several threads wait for each other.
class OMNI_API Token2Wav : public std::enable_shared_from_this<Token2Wav> {
 public:
  // `directory` is a model directory or its token2wav-gguf folder. Throws Error(file | format | unsupported).
  static std::shared_ptr<Token2Wav> open(const std::string& directory, const Token2WavOptions& options = {});
  // Networks with random weights of the given sizes, in memory.
  static std::shared_ptr<Token2Wav> synthetic(const SyntheticToken2Wav& sizes,
                                              const Token2WavOptions& options = {});
  ~Token2Wav();

  const Token2WavInfo& info() const;

  // Prepares the voice (about as long as a second or two of speech takes; found again for the same voice and
  // steps) and starts a stream. Throws Error(invalid_argument) if the voice can't be used so.
  std::unique_ptr<Token2WavStream> stream(const Voice& voice, const Token2WavStreamOptions& options = {});

  // A whole utterance at once, without windows and their seams: tokens [n] -> 960 n samples. At most a
  // minute. `options.silence` has no effect. Uses the original vocoder if there is one.
  std::vector<float> synthesize(std::span<const int32_t> tokens, const Voice& voice,
                                const Token2WavStreamOptions& options = {});

  // What the flow takes for a regular window of a stream, 25 new tokens behind `past` mel frames (the
  // voice's and up to 100 more), and the vocoder for mel frames.
  Token2WavCost flow_cost(int steps, int64_t past) const;
  Token2WavCost vocoder_cost(int64_t frames) const;

  // For tests: synthesize() that also keeps values inside the networks, by name.
  std::vector<float> synthesize(std::span<const int32_t> tokens, const Voice& voice,
                                const Token2WavStreamOptions& options,
                                std::map<std::string, std::vector<float>>& stages);
  // For tests and measurements: mel [80, n] to sound by the stream's vocoder, or the one for whole
  // utterances.
  std::vector<float> vocode(std::span<const float> mel, bool for_streams, bool excitation, uint64_t seed);

 private:
  struct Impl;
  explicit Token2Wav(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
