// vision/tower.h - the SigLIP2 transformer over the patches of slices.
#pragma once

#include "omni/vision.h"

#include <string>
#include <vector>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/linear.h"

namespace omni {

// Hyper-parameters of a vision file, tower and resampler, from its metadata and tensor shapes.
struct VisionConfig {
  int64_t n_layers = 0;
  int64_t width = 0;
  int64_t ffn_width = 0;
  int64_t n_heads = 0;
  int64_t patch_size = 0;  // pixels
  int64_t table_side = 0;  // the position table has table_side x table_side rows
  float norm_eps = 0;
  int64_t scale_resolution = 0;  // pixels
  PixelScale pixel_scale;
  int64_t n_queries = 0;
  int64_t embed_width = 0;
  int64_t embed_heads = 0;  // heads of the resampler

  int64_t patch_values() const { return 3 * patch_size * patch_size; }
  // Reads and checks them. Throws Error(format | unsupported).
  static VisionConfig read(const GgufFile& file);
};

struct LayerNorm {
  ggml_tensor* weight = nullptr;  // [width]
  ggml_tensor* bias = nullptr;    // [width]
  float eps = 0;
};
LayerNorm load_layer_norm(Weights& weights, const std::string& name, int64_t width, float eps);
// x [width, n, ...]
ggml_tensor* layer_norm(ggml_context* ctx, const LayerNorm& norm, ggml_tensor* x);

// The transformer's weights. Immutable after construction.
class VisionTower {
 public:
  // Declares the weights; the caller loads them.
  VisionTower(const VisionConfig& config, Weights& weights, const LinearPolicy& policy);

  // Rows of the input are this long: a patch's values, then zeros up to a length with fast kernels.
  int64_t patch_row() const { return patch_row_; }
  // What every slice multiplies with.
  void list_matrices(std::vector<const ggml_tensor*>& out) const;
  size_t max_nodes() const { return 16 + 48 * layers_.size(); }

  // patches [patch_row, n * batch], positions [n] rows of the position table -> [width, n * batch]. Layers
  // run up to `stop_after`: 0 gives the embeddings, i the output of layer i - 1; -1 all, and the last norm.
  ggml_tensor* build(ggml_context* ctx, ggml_tensor* patches, ggml_tensor* positions,
                     int64_t stop_after = -1) const;

 private:
  struct Layer {
    LayerNorm norm1, norm2;
    Linear q, k, v, out;
    Linear fc1, fc2;
  };

  VisionConfig config_;
  const Device& device_;
  int64_t patch_row_ = 0;
  Linear patch_;                      // [patch_row, width]
  ggml_tensor* positions_ = nullptr;  // [width, table_side * table_side]
  std::vector<Layer> layers_;
  LayerNorm post_norm_;
};

}  // namespace omni
