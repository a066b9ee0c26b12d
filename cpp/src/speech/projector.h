// speech/projector.h - from the language model's hidden states to what the speech model adds to its text.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/linear.h"

namespace omni {

// y = linear2(relu(linear1(h))), each row divided by its length.
class Projector {
 public:
  // Tensors are named `prefix`linear1.weight and so on. Throws Error(format) if they are not there or don't
  // give rows of `width`.
  Projector(std::shared_ptr<const GgufFile> file, const std::string& prefix, int64_t width,
            std::shared_ptr<Executor> executor, const LinearPolicy& policy);

  int64_t input_width() const { return first_.weight->ne[0]; }
  int64_t width() const { return second_.weight->ne[1]; }
  size_t copied_bytes() const { return weights_.copied_bytes(); }

  // hidden [n, input_width] is projected and added to rows [n, width]. Throws Error(invalid_argument) if a
  // row has no direction because its numbers are too large. Thread-safe.
  void add(std::span<const float> hidden, std::span<float> rows);

 private:
  static constexpr int64_t kRows = 16;  // computed at once; fewer are filled up with zeros

  struct Tensors {
    ggml_tensor* hidden = nullptr;     // [input_width, kRows]
    ggml_tensor* projected = nullptr;  // [width, kRows]
  };

  void add_some(std::span<const float> hidden, std::span<float> rows);

  Weights weights_;
  Linear first_;
  Linear second_;
  std::shared_ptr<Executor> executor_;
  GraphCache<Tensors> graphs_;
  std::vector<float> input_;   // [kRows, input_width]
  std::vector<float> output_;  // [kRows, width]
};

}  // namespace omni
