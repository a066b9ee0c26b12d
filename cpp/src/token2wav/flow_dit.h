// token2wav/flow_dit.h - the flow's estimator, a diffusion transformer, and the solver around it.
//
// Signals are [channels, frames, 2]: the branch that sees mean, speaker and prompt, and the one that sees
// none of them, for classifier-free guidance. One graph holds all steps of the solver.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/conv1d.h"
#include "kernels/linear.h"
#include "kernels/panels.h"
#include "kernels/prepare.h"
#include "token2wav/cost.h"
#include "token2wav/stages.h"

namespace omni {

struct DitConfig {
  int64_t width = 0;
  int64_t n_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn_width = 0;
  int64_t n_blocks = 0;
  int64_t n_inputs = 0;  // noise, mean, speaker, prompt: n_mels each
  int64_t n_mels = 0;
  int64_t time_size = 0;

  static constexpr int64_t kBranches = 2;
  static constexpr int64_t kConvReach = 2;  // frames before the first that a convolution sees

  // From the shapes of the tensors. Throws Error(format).
  static DitConfig read(const GgufFile& file);
};

// Times of the solver and what depends on them alone: the modulation of every block.
struct DitSchedule {
  int steps = 0;
  std::vector<float> times;  // [steps]
  std::vector<float> spans;  // [steps], how far each step goes
  ContextPtr context;
  BufferPtr buffer;
  ggml_tensor* blocks = nullptr;  // [9 width, blocks, steps]: shift, 1 + scale, gate of each of three parts
  ggml_tensor* final = nullptr;   // [2 width, steps]: shift, 1 + scale
  std::vector<float> embedding;   // [width, steps], the embedded times
};

// How a network wants its caches.
struct DitCacheForm {
  bool in_words;   // keys and values as kernels/panels.h takes them, else as rows
  ggml_type past;  // of the convolutions' inputs
};

// What a stream remembers of every step and block. Attention has no positions, so rows lie in any order;
// which row holds which frame is the business of FlowStream.
struct DitCache {
  DitCache(const DitConfig& config, const DitCacheForm& form, const Device& device, int steps, int64_t rows);

  // Of one step and block, and one branch: keys and values [width, n] from row 0 on, and the last inputs of
  // the convolutions [width, 2].
  void set_rows(size_t place, int64_t branch, std::span<const float> keys, std::span<const float> values);
  void set_past(size_t place, int64_t branch, std::span<const float> a, std::span<const float> b);

  panels::CacheShape shape;
  DitCacheForm form;
  ContextPtr context;
  BufferPtr buffer;
  // F32 [width, rows, 2, steps * blocks], or words: I32 [rows, width / 2, 2, steps * blocks] and [width, rows
  // / 2, 2, steps * blocks], the first of each padded.
  ggml_tensor* k = nullptr;
  ggml_tensor* v = nullptr;
  ggml_tensor* conv_a = nullptr;  // [width, 2 rows, 2, steps * blocks]
  ggml_tensor* conv_b = nullptr;  // [width, 2 rows, 2, steps * blocks]
};

struct DitTensors {
  ggml_tensor* noise = nullptr;      // [n_mels, t]
  ggml_tensor* condition = nullptr;  // [3 n_mels, t, 2]: mean, speaker, prompt; the second branch is zero
  ggml_tensor* slots = nullptr;      // [t] I64, cache rows of the new frames; null if there are no rows
  ggml_tensor* mask = nullptr;       // [n_kv, t or 1] F32, 0 or -inf; null if every row counts
  ggml_tensor* mel = nullptr;        // [n_mels, t]
  Stages stages;
};

class Dit {
 public:
  Dit(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device, const LinearPolicy& policy);

  const DitConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  DitCacheForm cache_form() const;
  size_t max_nodes(int steps) const;
  // What every frame multiplies with.
  std::vector<ggml_tensor*> matrices() const;
  // Of `frames` new frames that see `seen`.
  Token2WavCost cost(int steps, int64_t frames, int64_t seen) const;

  // Computes the modulations of a solver with this many steps. Throws Error(invalid_argument).
  DitSchedule make_schedule(Executor& executor, int steps) const;

  // Noise to mel over t frames. With a cache, its first n_kv rows are attended to, which the new frames are
  // written into first.
  DitTensors build(Graph& g, const DitSchedule& schedule, const DitCache* cache, int64_t t, int64_t n_kv,
                   bool masked, bool with_stages) const;

 private:
  struct Block {
    Linear qkv, proj;
    ggml_tensor *q_norm_w, *q_norm_b, *k_norm_w, *k_norm_b;  // [head_dim]
    Conv1d conv_a, conv_b;
    ggml_tensor *conv_norm_w, *conv_norm_b;  // [width]
    Linear fc1, fc2;
    Linear modulation;
  };
  // One block at one step.
  struct Place {
    size_t step;
    size_t block;
    const DitSchedule* schedule;
    const DitCache* cache;
    int64_t n_kv;
    // Room for the keys and values of one block, if there is no cache and attention wants them in words.
    ggml_tensor *k, *v;
  };

  ggml_tensor* modulation(ggml_context* ctx, const Place& at, size_t part) const;
  ggml_tensor* attend(Graph& g, const Place& at, ggml_tensor* y, const DitTensors& io) const;
  ggml_tensor* attend_rows(Graph& g, const Place& at, ggml_tensor* qkv, const DitTensors& io) const;
  ggml_tensor* run(Graph& g, const Place& at, ggml_tensor* h, const DitTensors& io) const;
  ggml_tensor* estimate(Graph& g, const Place& at, ggml_tensor* x, DitTensors& io) const;

  DitConfig config_;
  Weights weights_;
  std::vector<Block> blocks_;
  Linear time_in_, time_out_;
  Linear in_, final_modulation_, final_;
};

}  // namespace omni
