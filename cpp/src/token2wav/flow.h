// token2wav/flow.h - speech tokens to mel frames: encoder and estimator together, whole or as a stream.
//
// Mel frames are [n_mels, frames], 50 a second, natural logarithm.
#pragma once

#include "omni/voice.h"

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/graph.h"
#include "base/random.h"
#include "token2wav/flow_dit.h"
#include "token2wav/flow_encoder.h"

namespace omni {

// The two generations of the reference, which treat a stream's edges differently.
enum class FlowRules {
  original,  // silence looks ahead of the prompt; token-rate history is frozen once it is trimmed
  causal,    // the prompt's own first tokens look ahead; the newest history is kept
};

// The noise that the solver starts from: one fixed table, read at the offset that the caches have reached.
class FlowNoise {
 public:
  // Drawn as far as needed; the same numbers for every model and stream.
  explicit FlowNoise(int64_t n_mels) : n_mels_(n_mels), random_(kSeed) {}
  // Given: [n_mels, frames], frame after frame.
  FlowNoise(int64_t n_mels, std::vector<float> values);

  // [n_mels, n] from frame `first` on. Throws Error(invalid_argument) if a given table is too short.
  std::span<const float> frames(int64_t first, int64_t n);

 private:
  static constexpr uint64_t kSeed = 977;
  int64_t n_mels_;
  std::optional<Random> random_;  // none if given
  std::vector<float> values_;
};

// A voice made ready: the caches after the prompt, for one number of steps. Immutable; streams start as
// copies.
struct FlowPrompt {
  FlowPrompt(const FlowEncoderConfig& encoder_config, const Dit& estimator, const Device& device, int steps,
             int64_t n_frames)
      : frames(n_frames),
        encoder(encoder_config, device, n_frames / FlowEncoderConfig::kUp),
        dit(estimator.config(), estimator.cache_form(), device, steps, n_frames) {}

  int64_t frames;
  FlowRules rules = FlowRules::original;
  std::shared_ptr<const DitSchedule> schedule;
  std::shared_ptr<FlowNoise> noise;
  std::vector<float> speaker;  // [n_mels]
  std::vector<float> mu;       // [n_mels, frames], empty for a loaded cache
  FlowEncoderCache encoder;
  DitCache dit;
};

class Flow;

// One stream through the flow.
class FlowStream {
 public:
  // Most tokens that one call computes.
  static constexpr int64_t kMaxTokens = 32;

  FlowStream(std::shared_ptr<Flow> flow, std::shared_ptr<const FlowPrompt> prompt);

  // Back to the state after the prompt.
  void reset();
  // Takes over the state of another stream of the same prompt.
  void copy_from(const FlowStream& other);

  struct Result {
    std::vector<float> mu;   // [n_mels, frames]
    std::vector<float> mel;  // [n_mels, frames]
  };
  // n tokens -> 2 (n - look_ahead) frames, or 2n if `last`. Throws Error(invalid_argument) for unknown
  // tokens, too few or too many.
  void push(std::span<const int32_t> ids, bool last, Result& result);

  int64_t dit_frames() const { return static_cast<int64_t>(order_.size()); }
  int64_t encoder_frames() const { return FlowEncoderConfig::kUp * encoder_.length; }

 private:
  struct Gather {
    ggml_tensor* rows = nullptr;     // [n, layers] I32
    ggml_tensor* up_rows = nullptr;  // [2n, up layers] I32
  };

  void encode(std::span<const int32_t> ids, bool last, std::vector<float>& mu);
  void solve(std::span<const float> mu, std::vector<float>& mel);
  void trim_dit();
  void trim_encoder();
  // Rows of the trimmed encoder caches, as rows of the present ones.
  std::vector<int32_t> kept_rows(int64_t length, int64_t prompt, int64_t history, bool frozen) const;

  std::shared_ptr<Flow> flow_;
  std::shared_ptr<const FlowPrompt> prompt_;
  FlowEncoderCache encoder_;
  DitCache dit_;
  std::vector<int32_t> order_;  // cache rows in the order that the reference stores them: newest chunk first
  std::vector<uint8_t> used_;   // whether a cache row holds a frame
  GraphCache<FlowEncoderTensors> encoder_graphs_;
  GraphCache<DitTensors> dit_graphs_;
  GraphCache<Gather> gather_graphs_;

  // Reused between calls.
  std::vector<int64_t> slots_;
  std::vector<float> condition_;
  std::vector<float> mask_;
};

struct FlowFiles {
  std::shared_ptr<const GgufFile> encoder, estimator, extra;
};

// The networks. Weights are shared by all streams; calls exclude each other.
class Flow : public std::enable_shared_from_this<Flow> {
 public:
  // Frames of generated speech that caches keep beside the prompt.
  static constexpr int64_t kHistory = 100;

  Flow(const FlowFiles& files, std::shared_ptr<Executor> executor, const LinearPolicy& policy);

  const FlowEncoderConfig& encoder_config() const { return encoder_.config(); }
  const DitConfig& dit_config() const { return dit_.config(); }
  Device& device() const { return executor_->device(); }
  size_t copied_bytes() const { return encoder_.weights().copied_bytes() + dit_.weights().copied_bytes(); }

  // Runs the voice's recording through the flow, or takes the caches that the voice holds. `noise` null: the
  // fixed table. Prompts over the fixed table are kept and found again.
  std::shared_ptr<const FlowPrompt> prompt(const Voice& voice, int steps, FlowRules rules,
                                           std::shared_ptr<FlowNoise> noise);

  // Prompt and tokens in one piece, without caches: [n_mels, 2n], the frames behind the prompt.
  std::vector<float> whole(const Voice& voice, std::span<const int32_t> ids, int steps,
                           const std::shared_ptr<FlowNoise>& noise, StageValues* stages);

  std::shared_ptr<const DitSchedule> schedule(int steps);

  const Dit& dit() const { return dit_; }
  // Of `tokens` new tokens behind `past` mel frames.
  Token2WavCost cost(int steps, int64_t tokens, int64_t past) const;

  // Throws Error(invalid_argument) naming the first id that is no speech token.
  void check_ids(std::span<const int32_t> ids) const;

 private:
  friend class FlowStream;
  struct Kept {
    uint64_t key;
    std::weak_ptr<const FlowPrompt> prompt;
  };

  std::shared_ptr<FlowPrompt> compute_prompt(const Voice& voice, int steps, FlowRules rules,
                                             std::shared_ptr<FlowNoise> noise);
  std::shared_ptr<FlowPrompt> load_prompt(const Voice& voice) const;
  // [3 n_mels, t, 2] for the estimator: mean, speaker and prompt mel (may be shorter), then zeros.
  void fill_condition(std::span<const float> mu, std::span<const float> speaker, std::span<const float> mel,
                      std::vector<float>& out) const;

  std::shared_ptr<Executor> executor_;
  FlowEncoder encoder_;
  Dit dit_;
  std::shared_ptr<FlowNoise> noise_;
  std::vector<std::shared_ptr<const DitSchedule>> schedules_;
  std::vector<Kept> kept_;
  std::shared_ptr<const FlowPrompt> latest_;  // stays even if no stream uses it
};

}  // namespace omni
