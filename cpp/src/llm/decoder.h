// llm/decoder.h - the decoder of the language model and of the speech model: its sizes, weights and graphs.
#pragma once

#include "omni/language_model.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/linear.h"

namespace omni {

// Hyper-parameters, from the file's metadata.
struct DecoderConfig {
  std::string architecture;
  int64_t n_layers = 0;
  int64_t width = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn_width = 0;
  int64_t n_ctx_train = 0;
  float norm_eps = 0;
  float rope_base = 0;
  bool qk_norm = false;  // queries and keys are normalised, head by head
  bool neighbour_pairs =
      false;  // rotation pairs elements 2i and 2i + 1 of a head, not i and i + head_dim / 2

  int64_t kv_width() const { return n_kv_heads * head_dim; }
  // Reads and checks them. `architecture` is the one that the caller can use, "qwen3" or "llama"; `role` says
  // in messages what the file should be. Throws Error(format | unsupported).
  static DecoderConfig read(const GgufFile& file, const std::string& architecture, const char* role);
};

// Keys and values of every layer, on the device: [kv_width, rows] each.
struct KvTensors {
  std::vector<ggml_tensor*> k;
  std::vector<ggml_tensor*> v;
};

// Inputs and outputs of one forward graph.
struct DecoderTensors {
  ggml_tensor* embeds = nullptr;      // [width, n] F32
  ggml_tensor* positions = nullptr;   // [n] I32
  ggml_tensor* cache_rows = nullptr;  // [n] I64, where keys and values go
  ggml_tensor* mask = nullptr;        // [n_kv, n] F16: 0 or -inf
  ggml_tensor* rows = nullptr;        // [n_rows] I32, null if none are wanted or all are
  ggml_tensor* hidden = nullptr;      // [width, n or n_rows] F32, null if nothing is wanted
  ggml_tensor* logits = nullptr;      // [n_vocab, n_rows] F32, null if n_rows is 0
};

// Inputs of the graph that moves rows of the cache.
struct MoveTensors {
  ggml_tensor* source = nullptr;  // [n] I32
  ggml_tensor* target = nullptr;  // [n] I64
  ggml_tensor* turn = nullptr;    // [n] I32, target - source: by how many positions a key is rotated
};

// Weights of the decoder. Immutable after construction.
class Decoder {
 public:
  // `output` declares the matrix that turns hidden states into logits, [width, n_vocab].
  using Output = std::function<ggml_tensor*(Weights&)>;

  Decoder(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device, const DecoderConfig& config,
          const LinearPolicy& policy, const Output& output);

  const DecoderConfig& config() const { return config_; }
  int64_t n_vocab() const { return output_.weight->ne[1]; }
  const Weights& weights() const { return weights_; }
  size_t max_nodes() const;
  // What a pass multiplies with.
  MatrixTotals matrices() const;

  // One forward pass over `n` rows against the first `n_kv` cache rows.
  DecoderTensors build(Graph& g, const KvTensors& kv, int64_t n, int64_t n_kv, int64_t n_rows,
                       Hidden hidden) const;
  // Moves `n` rows of the cache and rotates their keys.
  MoveTensors build_move(Graph& g, const KvTensors& kv, int64_t n) const;

 private:
  struct Layer {
    ggml_tensor* attn_norm = nullptr;  // [width]
    ggml_tensor* q_norm = nullptr;     // [head_dim], null without qk_norm
    ggml_tensor* k_norm = nullptr;     // [head_dim], null without qk_norm
    ggml_tensor* ffn_norm = nullptr;   // [width]
    Linear q, k, v, o;
    Linear gate, up, down;
  };

  ggml_tensor* norm(ggml_context* ctx, ggml_tensor* x, ggml_tensor* weight) const;
  ggml_tensor* rope(ggml_context* ctx, ggml_tensor* x, ggml_tensor* positions) const;
  // Queries or keys x [heads * head_dim, n] as [head_dim, heads, n], normalised and rotated.
  ggml_tensor* heads(ggml_context* ctx, ggml_tensor* x, ggml_tensor* norm_weight,
                     ggml_tensor* positions) const;
  // Writes the keys and values of x [width, n] into the cache.
  void remember(Graph& g, const Layer& layer, ggml_tensor* x, ggml_tensor* k_cache, ggml_tensor* v_cache,
                const DecoderTensors& t) const;
  // Attention of x [width, n] to the first `n_kv` rows of the cache: -> [n_heads * head_dim, n].
  ggml_tensor* attend(Graph& g, const Layer& layer, ggml_tensor* x, ggml_tensor* k_cache,
                      ggml_tensor* v_cache, int64_t n_kv, const DecoderTensors& t) const;

  DecoderConfig config_;
  Weights weights_;
  std::vector<Layer> layers_;
  ggml_tensor* output_norm_ = nullptr;
  Linear output_;
};

}  // namespace omni
