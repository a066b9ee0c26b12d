// audio/encoder.h - the Whisper encoder and its projection: sizes, weights and graphs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/attention.h"
#include "kernels/linear.h"

namespace omni {

struct EncoderConfig {
  int64_t n_layers = 0;
  int64_t width = 0;
  int64_t n_heads = 0;
  int64_t ffn_width = 0;
  int64_t n_positions = 0;
  int64_t bins = 0;
  int64_t pool = 0;
  int64_t embed_width = 0;
  std::vector<float> filters;  // [201, bins]

  int64_t head_dim() const { return width / n_heads; }
  // Reads and checks them. Throws Error(format | unsupported).
  static EncoderConfig read(const GgufFile& file);
};

// Keys and values of every layer, on the device: [width, rows] each.
struct EncoderCache {
  std::vector<ggml_tensor*> k;
  std::vector<ggml_tensor*> v;
};

// What tells one pass from another.
struct EncoderShape {
  int64_t frames = 0;     // mel frames
  int64_t skipped = 0;    // positions dropped in front after the convolutions
  int64_t positions = 0;  // positions kept; those behind are dropped
  int64_t projected = 0;  // of which so many, from the first, are given out and projected
  int64_t n_kv = 0;       // rows of the cache that are read; 0: without a cache, positions see each other
  bool limited = false;   // whether a position doesn't see all; with a cache always

  GraphKey key() const {
    return {frames, skipped * (int64_t{1} << 32) + positions, projected, limited ? n_kv : -1};
  }
};

struct EncoderTensors {
  ggml_tensor* mel = nullptr;         // [frames, bins] F32
  ggml_tensor* rows = nullptr;        // [positions] I32, of the position table
  ggml_tensor* cache_rows = nullptr;  // [positions] I64, where keys and values go; null without a cache
  Visible visible;                    // what each position sees; empty if everything
  ggml_tensor* encoded = nullptr;     // [width, projected] F32
  ggml_tensor* embeds = nullptr;      // [embed_width, projected / pool] F32, null if there are none
  // Only if asked for:
  ggml_tensor* conv1 = nullptr;   // [width, frames]
  ggml_tensor* conv2 = nullptr;   // [width, positions]
  ggml_tensor* layer0 = nullptr;  // [width, positions]
  ggml_tensor* all = nullptr;     // [embed_width, projected], the projection before the average
};

// Weights of the encoder. Immutable after construction.
class Encoder {
 public:
  Encoder(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device, const LinearPolicy& policy);

  const EncoderConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  size_t max_nodes() const { return 64 + 40 * layers_.size(); }
  // What every pass multiplies with.
  std::vector<const ggml_tensor*> matrices() const;

  // One pass. `cache` is used if shape.n_kv > 0. `stages` adds the outputs for inspection.
  EncoderTensors build(Graph& g, const EncoderShape& shape, const EncoderCache* cache,
                       bool stages = false) const;

 private:
  struct Norm {
    ggml_tensor* weight = nullptr;  // [width]
    ggml_tensor* bias = nullptr;    // [width]
  };
  struct Convolution {
    ggml_tensor* kernel = nullptr;  // [3, in, width]
    ggml_tensor* bias = nullptr;    // [1, width]
  };
  struct Layer {
    Norm attention_norm, ffn_norm;
    Linear q, k, v, out;
    Linear up, down;
  };

  Convolution load_convolution(const std::string& name, int64_t in);
  Norm load_norm(const std::string& name);
  // x [n, in] -> [width, ceil(n / stride)] with zeros on both sides; without the bias.
  ggml_tensor* convolve(ggml_context* ctx, const Convolution& conv, ggml_tensor* x, int stride) const;
  ggml_tensor* norm(ggml_context* ctx, ggml_tensor* x, const Norm& norm) const;
  // Attention of x [width, n]: -> [width, n].
  ggml_tensor* attend(Graph& g, size_t layer, ggml_tensor* x, const EncoderShape& shape,
                      const EncoderCache* cache, const EncoderTensors& t) const;
  // The averages of every `pool` columns of x [width, n]: -> [width, n / pool].
  ggml_tensor* average(ggml_context* ctx, ggml_tensor* x) const;

  EncoderConfig config_;
  Weights weights_;
  Convolution conv1_, conv2_;
  ggml_tensor* position_table_ = nullptr;  // [width, n_positions]
  std::vector<Layer> layers_;
  Norm final_norm_;
  Linear project1_, project2_;
};

}  // namespace omni
