// vision/resampler.h - cross attention that makes a fixed number of embeddings of any number of patches.
#pragma once

#include <cstdint>
#include <vector>

#include "vision/tower.h"

namespace omni {

class Resampler {
 public:
  // Declares the weights; the caller loads them.
  Resampler(const VisionConfig& config, Weights& weights, const LinearPolicy& policy);

  // What every slice multiplies with.
  void list_matrices(std::vector<const ggml_tensor*>& out) const;
  size_t max_nodes() const { return 64; }

  // The projected queries [embed_width, n_queries]: the same for every image, so they are computed once.
  ggml_tensor* build_queries(ggml_context* ctx) const;
  // What the queries find: x [width, n * batch], queries from build_queries(), positions [embed_width, n] ->
  // [embed_width, n_queries * batch].
  ggml_tensor* build_attention(ggml_context* ctx, ggml_tensor* x, ggml_tensor* queries,
                               ggml_tensor* positions) const;
  // The embeddings of that, in the same shape.
  ggml_tensor* build_output(ggml_context* ctx, ggml_tensor* found) const;

 private:
  VisionConfig config_;
  const Device& device_;
  ggml_tensor* query_ = nullptr;  // [embed_width, n_queries]
  Linear kv_, q_, k_, v_, out_, proj_;
  LayerNorm norm_q_, norm_kv_, norm_post_;
};

// Sine and cosine positions of a grid of patches, row by row: [width, columns * rows]. The first half of a
// row tells the patch's column, the second its row; each half holds sines, then cosines.
void sincos_positions(int64_t width, int64_t columns, int64_t rows, std::vector<float>& out);

}  // namespace omni
