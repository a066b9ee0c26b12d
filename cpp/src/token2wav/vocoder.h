// token2wav/vocoder.h - mel frames to sound at 24 kHz, whole or as a stream.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "base/graph.h"
#include "base/random.h"
#include "token2wav/hift_net.h"
#include "token2wav/istft.h"
#include "token2wav/stages.h"

namespace omni {

// Where the vocoder's excitation gets its noise.
struct ExcitationOptions {
  uint64_t seed = 0;
  bool noise = true;  // without it unvoiced speech has no excitation: for comparisons with a fixed reference
};

// One stream of sound.
class VocoderStream {
 public:
  // By how many frames the sound of a stream follows its mel.
  static constexpr int64_t kDelay = 8;

  virtual ~VocoderStream() = default;
  // Takes mel [n_mels, n] and appends the samples that follow to `wave`, clamped to 0.99. `last` ends the
  // utterance and gives everything that is left; the stream then starts anew.
  virtual void push(std::span<const float> mel, bool last, std::vector<float>& wave) = 0;
  virtual void reset() = 0;
  // A copy with a state of its own.
  virtual std::unique_ptr<VocoderStream> clone() const = 0;
};

// A vocoder's weights, shared by its streams.
class Vocoder : public std::enable_shared_from_this<Vocoder> {
 public:
  Vocoder(std::shared_ptr<const GgufFile> file, std::shared_ptr<Executor> executor,
          const LinearPolicy& policy);

  const HiftConfig& config() const { return net_.config(); }
  const HiftNet& net() const { return net_; }
  const std::shared_ptr<Executor>& executor() const { return executor_; }

  std::unique_ptr<VocoderStream> stream(const ExcitationOptions& options);
  // A whole utterance: mel [n_mels, n] -> 480 n samples.
  std::vector<float> whole(std::span<const float> mel, const ExcitationOptions& options, StageValues* stages);

 private:
  std::shared_ptr<Executor> executor_;
  HiftNet net_;
};

// The original vocoder's excitation: sines at the pitch and its harmonics, or noise where there is no pitch.
class Excitation {
 public:
  Excitation(const HiftNet& net, const ExcitationOptions& options);

  // Pitch [n] Hz -> 480 n samples. The phase starts at zero with every call and is interpolated between
  // frames; noise is drawn for the samples from `first_new` on.
  void whole(std::span<const float> f0, size_t first_new, std::vector<float>& out);
  // The same for the causal vocoder: phase goes on from call to call and is held within a frame; noise is
  // uniform and belongs to the sample's place in the stream.
  void next(std::span<const float> f0, std::vector<float>& out);
  void reset();

  const std::array<double, HiftConfig::kHarmonics>& phase() const { return phase_; }

 private:
  float mix(const float* sines) const;
  float gaussian(bool voiced);
  float uniform(bool voiced);

  std::array<float, HiftConfig::kHarmonics + 1> weights_;
  float norm_ = 0;  // of the weights: independent normal noise of all harmonics adds up to this deviation
  ExcitationOptions options_;
  Random random_;
  std::array<double, HiftConfig::kHarmonics> phase_{};  // cycles
  int64_t sample_ = 0;
};

}  // namespace omni
