// base/random_weights.h - random weights for models that only measure a machine.
#pragma once

#include <cstdint>
#include <vector>

#include "base/gguf_file.h"
#include "base/random.h"

namespace omni {

// Fills tensors of a file in memory (see GgufBuilder::build). Matrices keep the variance of what they
// multiply; vectors are 1, biases and means 0. A matrix is a block of random rows, repeated: repetition costs
// nothing in speed measurements and saves the minutes that drawing thousands of millions of numbers takes.
class RandomWeights {
 public:
  // `rows` of every matrix are drawn, the others repeat them; 0 draws all.
  explicit RandomWeights(int64_t rows = 16) : rows_(rows) {}

  // Writes tensor `t` to `data`.
  void operator()(const GgufTensor& t, uint8_t* data);

 private:
  int64_t rows_;
  Random random_{1};
  std::vector<float> values_;
};

}  // namespace omni
