// token2wav/flow_encoder.h - speech tokens to the mean of the flow: an upsampling conformer with look-ahead.
//
// Signals are [width, frames]. The first layers run at token rate (25 a second), the others at mel rate (50).
#pragma once

#include <memory>
#include <vector>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/conv1d.h"
#include "kernels/linear.h"
#include "token2wav/cost.h"
#include "token2wav/stages.h"

namespace omni {

struct FlowEncoderConfig {
  int64_t width = 0;
  int64_t n_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn_width = 0;
  int64_t n_layers = 0;     // at token rate
  int64_t n_up_layers = 0;  // at mel rate
  int64_t n_vocab = 0;      // speech tokens
  int64_t n_mels = 0;
  int64_t speaker_size = 0;
  int64_t look_ahead = 0;  // tokens after the last one that is computed

  static constexpr int64_t kUp = 2;  // mel frames for each token

  // From the shapes of the tensors. Throws Error(format).
  static FlowEncoderConfig read(const GgufFile& encoder, const GgufFile& extra);
};

// Highest N of the tensors `prefix`N.*, plus one.
int64_t count_blocks(const GgufFile& file, const std::string& prefix);

// What a stream remembers: oldest rows first.
struct FlowEncoderCache {
  FlowEncoderCache(const FlowEncoderConfig& config, const Device& device, int64_t max_tokens);

  int64_t capacity;    // tokens
  int64_t length = 0;  // tokens; the mel-rate layers hold twice as many rows
  ContextPtr context;
  BufferPtr buffer;
  ggml_tensor* head = nullptr;  // [width, 2] before the second look-ahead convolution
  ggml_tensor* up = nullptr;    // [width, 4] before the upsampling convolution
  ggml_tensor* k = nullptr;     // [width, capacity, layers]
  ggml_tensor* v = nullptr;
  ggml_tensor* up_k = nullptr;  // [width, 2 capacity, up layers]
  ggml_tensor* up_v = nullptr;
};

// Inputs and outputs of one encoder graph.
struct FlowEncoderTensors {
  ggml_tensor* ids = nullptr;     // [n] I32
  ggml_tensor* angles = nullptr;  // [width, 2 S - 1...] positions at token rate, null if tables serve
  ggml_tensor* up_angles = nullptr;
  ggml_tensor* mu = nullptr;  // [n_mels, 2 t]
  Stages stages;
};

class FlowEncoder {
 public:
  FlowEncoder(std::shared_ptr<const GgufFile> encoder, std::shared_ptr<const GgufFile> extra,
              std::shared_ptr<Device> device, const LinearPolicy& policy);

  const FlowEncoderConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  size_t max_nodes() const;
  // Of `tokens` new tokens that see `seen`.
  Token2WavCost cost(int64_t tokens, int64_t seen) const;

  // n tokens -> mu. If `last`, all n are computed, else the last `look_ahead` only serve the others. With a
  // cache, `past` tokens of it are attended to and the new rows are written behind them.
  FlowEncoderTensors build(Graph& g, const FlowEncoderCache* cache, int64_t n, bool last, int64_t past,
                           bool with_stages) const;
  // Fills the inputs of a graph that build() made.
  void set_inputs(const Executor& executor, const FlowEncoderTensors& t, std::span<const int32_t> ids) const;

  // [192] -> [n_mels]: the speaker vector, normalised and projected.
  std::vector<float> speaker(std::span<const float> embedding) const;

  // Computes the position tables that streams share. Call once, before any graph with a cache is built.
  void make_tables(Executor& executor);

 private:
  struct Layer {
    ggml_tensor *norm_w, *norm_b;          // [width]
    ggml_tensor *ffn_norm_w, *ffn_norm_b;  // [width]
    ggml_tensor *bias_u, *bias_v;          // [head_dim, heads]
    Linear q, k, v, out, pos;
    Linear ffn_in, ffn_out;
    size_t table = 0;  // of tables_
  };
  struct Embed {
    Linear dense;
    ggml_tensor *norm_w, *norm_b;
  };
  // Where a layer finds earlier keys and values; null tensors if it has none.
  struct Past {
    ggml_tensor* k = nullptr;  // [width, capacity]
    ggml_tensor* v = nullptr;
    int64_t length = 0;
  };

  Layer load_layer(const std::string& name, const LinearPolicy& policy);
  Embed load_embed(const std::string& name, const LinearPolicy& policy);
  ggml_tensor* embed(ggml_context* ctx, const Embed& e, ggml_tensor* x) const;
  ggml_tensor* run(Graph& g, const Layer& layer, ggml_tensor* x, ggml_tensor* positions,
                   const Past& past) const;
  ggml_tensor* attend(Graph& g, const Layer& layer, ggml_tensor* h, ggml_tensor* positions,
                      const Past& past) const;
  // The projected positions of a layer for `t` new rows and `s` in all, or null if `angles` must serve.
  ggml_tensor* table(ggml_context* ctx, const Layer& layer, int64_t t, int64_t s) const;
  // Fills angles for r = first, first - 1, ...
  void fill_angles(std::span<float> out, int64_t first) const;

  FlowEncoderConfig config_;
  Weights weights_;
  Weights extra_;
  ggml_tensor* tokens_ = nullptr;  // [width, n_vocab]
  Embed embed_, up_embed_;
  Conv1d look_, head_, up_conv_;
  std::vector<Layer> layers_, up_layers_;
  ggml_tensor *after_w_ = nullptr, *after_b_ = nullptr;
  Linear proj_;
  ContextPtr table_context_;
  BufferPtr table_buffer_;
  std::vector<ggml_tensor*> tables_;  // [width, kTableRows]
};

}  // namespace omni
