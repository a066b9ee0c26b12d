// token2wav/s3_tokenizer.h - the S3 speech tokenizer, version 2: 25 tokens a second out of a log-mel.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/conv1d.h"
#include "kernels/linear.h"

namespace omni {

inline constexpr int kSpeechTokens = 6561;  // 3 to the power of 8
inline constexpr int kTokenDigits = 8;      // ternary digits of a token, the first one counts least

// Tokens that `frames` mel frames become: two convolutions halve them.
inline int64_t s3_token_count(int64_t frames) {
  return ((frames + 1) / 2 + 1) / 2;
}

// Token of each group of 8 numbers before the tanh: [8, n] -> n.
std::vector<int32_t> s3_tokens(std::span<const float> codes);

// Weights of the encoder. Immutable after construction.
class S3Tokenizer {
 public:
  // Throws Error(format) if the file is not a speech tokenizer, or damaged.
  S3Tokenizer(const std::shared_ptr<const GgufFile>& file, std::shared_ptr<Device> device,
              const LinearPolicy& policy);

  int64_t mel_bins() const { return mel_bins_; }

  // The projection that is quantised: mel [mel_bins, frames] -> [8, s3_token_count(frames)].
  std::vector<float> codes(Executor& executor, std::span<const float> mel) const;

 private:
  struct Norm {
    ggml_tensor* weight = nullptr;
    ggml_tensor* bias = nullptr;
  };
  struct Layer {
    Norm attn_norm, ffn_norm;
    Linear q, k, v, o, up, down;
    ggml_tensor* memory = nullptr;  // [1, width, taps]: a kernel over time for each channel
  };

  static ggml_tensor* norm(ggml_context* ctx, const Norm& layer, ggml_tensor* x, float eps);
  // Attention of x [width, n] to itself, and the memory beside it.
  ggml_tensor* attend(ggml_context* ctx, const Layer& layer, ggml_tensor* x, ggml_tensor* positions) const;

  Weights weights_;
  int64_t mel_bins_ = 0;
  int64_t width_ = 0;
  Conv1d conv1_, conv2_;
  std::vector<Layer> layers_;
  Linear project_;
};

}  // namespace omni
