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
#include "kernels/activations.h"
#include "kernels/conv1d.h"
#include "kernels/gelu.h"
#include "kernels/linear.h"
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

// What a stream remembers of every step and block. Attention has no positions, so rows lie in any order;
// which row holds which frame is the business of FlowState.
struct DitCache {
  DitCache(const DitConfig& config, const Device& device, int steps, int64_t rows);

  int64_t capacity;  // rows
  ContextPtr context;
  BufferPtr buffer;
  ggml_tensor* k = nullptr;       // [width, capacity, 2, steps * blocks]
  ggml_tensor* v = nullptr;       // [width, capacity, 2, steps * blocks]
  ggml_tensor* conv_a = nullptr;  // [width, 2 rows, 2, steps * blocks]
  ggml_tensor* conv_b = nullptr;  // [width, 2 rows, 2, steps * blocks]
};

struct DitTensors {
  ggml_tensor* noise = nullptr;      // [n_mels, t]
  ggml_tensor* condition = nullptr;  // [3 n_mels, t, 2]: mean, speaker, prompt; the second branch is zero
  ggml_tensor* slots = nullptr;      // [t] I64, cache rows of the new frames
  ggml_tensor* mask = nullptr;       // [n_kv, t] F32, 0 or -inf; null if every row counts
  ggml_tensor* mel = nullptr;        // [n_mels, t]
  Stages stages;
};

class Dit {
 public:
  Dit(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device, const LinearPolicy& policy);

  const DitConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
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
    Linear q, k, v, proj;
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
  };

  ggml_tensor* modulation(ggml_context* ctx, const Place& at, size_t part) const;
  ggml_tensor* attend(Graph& g, const Place& at, ggml_tensor* y, const DitTensors& io) const;
  ggml_tensor* convolve(Graph& g, const Place& at, ggml_tensor* y) const;
  ggml_tensor* run(Graph& g, const Place& at, ggml_tensor* h, const DitTensors& io) const;
  ggml_tensor* estimate(Graph& g, const Place& at, ggml_tensor* x, DitTensors& io) const;

  DitConfig config_;
  Activations activations_;
  Weights weights_;
  std::vector<Block> blocks_;
  Linear time_in_, time_out_;
  Linear in_, final_modulation_, final_;
};

}  // namespace omni
