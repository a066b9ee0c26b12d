// base/random_weights.cpp - drawing weights and encoding them.
#include "base/random_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace omni {

void RandomWeights::operator()(const GgufTensor& t, uint8_t* data) {
  const bool is_bias = t.name.ends_with("bias");
  if (t.n_dims == 1 || is_bias) {
    const bool zero = is_bias || t.name.ends_with("mean");
    std::fill_n(reinterpret_cast<float*>(data), t.elements(), zero ? 0.0F : 1.0F);
    return;
  }
  const int64_t all = t.elements() / t.ne[0];
  // Repeated rows of a convolution's kernel would make all its channels equal.
  const int64_t rows = rows_ == 0 || t.n_dims > 2 ? all : std::min(rows_, all);
  values_.resize(static_cast<size_t>(rows * t.ne[0]));
  // A kernel of a convolution has several dimensions that are summed over.
  const int64_t summed = t.elements() / t.ne[static_cast<size_t>(t.n_dims) - 1];
  const float scale = 1.0F / std::sqrt(static_cast<float>(summed));
  for (float& v : values_) v = scale * random_.normal();
  const size_t block = ggml_row_size(t.type, t.ne[0]) * static_cast<size_t>(rows);
  if (t.type == GGML_TYPE_F32) {
    std::memcpy(data, values_.data(), block);
  } else {
    ggml_quantize_chunk(t.type, values_.data(), data, 0, rows, t.ne[0], nullptr);
  }
  for (size_t at = block; at < t.size; at += block)
    std::memcpy(data + at, data, std::min(block, t.size - at));
}

}  // namespace omni
