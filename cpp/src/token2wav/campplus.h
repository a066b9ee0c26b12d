// token2wav/campplus.h - the CAM++ speaker encoder: one vector for the voice in a recording.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/conv1d.h"

namespace omni {

inline constexpr int kSpeakerFeatures = 80;  // bands of the filter bank that it reads
inline constexpr int kMinSpeakerFrames = 3;  // fewer leave no deviation to compute

// What the mean over the last, partial block of 2 s is divided by: its own length, as the network was
// defined, or a whole block's, as ONNX Runtime 1.21 to 1.23 compute it.
enum class TailDivisor { own_length, whole_block };

// Weights of the network. Immutable after construction.
class SpeakerEncoder {
 public:
  // Throws Error(format) if the file is not a speaker encoder, or damaged.
  SpeakerEncoder(const std::shared_ptr<const GgufFile>& file, std::shared_ptr<Device> device);

  int64_t width() const { return width_; }

  // Centred filter bank features [80, frames] -> vector [width].
  std::vector<float> embed(Executor& executor, std::span<const float> features,
                           TailDivisor divisor = TailDivisor::own_length) const;

 private:
  // A batch normalisation: y = scale x + shift. Tensors are [channels] F32.
  struct Affine {
    ggml_tensor* scale = nullptr;
    ggml_tensor* shift = nullptr;
  };
  // A 3 x 3 or 1 x 1 convolution over frequency and time.
  struct ImageConv {
    ggml_tensor* kernel = nullptr;  // [time, frequency, in, out]
    ggml_tensor* bias = nullptr;    // [1, 1, out]
    int stride = 1;                 // along frequency
    int pad = 1;
  };
  struct Residual {
    ImageConv conv1, conv2;
    ImageConv shortcut;  // no kernel: the input itself
  };
  struct DenseLayer {
    Affine norm;
    Conv1d squeeze;         // in -> bottleneck
    Conv1d local;           // bottleneck -> growth, 3 taps
    Conv1d context1, gate;  // bottleneck -> half of it -> growth
  };
  struct DenseBlock {
    std::vector<DenseLayer> layers;
    Affine norm;
    Conv1d halve;
  };
  // Blocks of 2 s: which one each row belongs to, and the weights of their means.
  struct Segments {
    ggml_tensor* means = nullptr;  // [rows, segments]
    ggml_tensor* index = nullptr;  // [rows] I32
  };

  Affine load_norm(const std::string& name, int64_t n, bool has_weights);
  ImageConv load_image_conv(const std::string& name, int64_t size, int64_t in, int64_t out, int stride);
  void load_head();
  int64_t load_block(size_t number, int64_t channels, int dilation);

  static ggml_tensor* affine(ggml_context* ctx, const Affine& layer, ggml_tensor* x);
  static ggml_tensor* image_conv(ggml_context* ctx, const ImageConv& layer, ggml_tensor* x);
  static ggml_tensor* residual(ggml_context* ctx, const Residual& layer, ggml_tensor* x);
  static ggml_tensor* dense(ggml_context* ctx, const DenseLayer& layer, ggml_tensor* x,
                            const Segments& segments);
  static ggml_tensor* statistics(ggml_context* ctx, ggml_tensor* x);

  Weights weights_;
  int64_t width_ = 0;
  int64_t head_channels_ = 0;
  ImageConv first_, last_;
  std::array<Residual, 4> residuals_;
  Conv1d tdnn_;
  std::array<DenseBlock, 3> blocks_;
  Conv1d project_;
  Affine output_norm_;
};

}  // namespace omni
