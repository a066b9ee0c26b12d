// token2wav/hift_net.h - the networks of both vocoders: mel frames to pitch, mel and excitation to spectrum.
//
// The two generations have the same parts. The original one sees frames on both sides; the causal one sees
// earlier frames only, but for a few mel frames ahead, so that a stream can remember what each convolution
// saw. Signals are [channels, frames].
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "base/graph.h"
#include "base/weights.h"
#include "kernels/conv1d.h"
#include "kernels/prepare.h"
#include "token2wav/cost.h"
#include "token2wav/stages.h"

namespace omni {

struct HiftConfig {
  static constexpr size_t kStages = 3;
  static constexpr size_t kKernels = 3;    // parallel residual blocks of a stage
  static constexpr size_t kDilations = 3;  // 1, 3, 5
  static constexpr std::array<int64_t, kStages> kUp = {8, 5, 3};
  static constexpr std::array<int64_t, kStages> kDown = {15, 3, 1};  // excitation columns for a stage's frame
  static constexpr int64_t kColumns = 120;                           // columns for a mel frame
  static constexpr int64_t kSamples = 480;                           // samples for a mel frame
  static constexpr int64_t kHarmonics = 9;                           // with the fundamental
  static constexpr int64_t kSampleRate = 24000;
  // Columns beside the frames that the widest excitation filter sees, on both sides together.
  static constexpr int64_t kColumnMargin = 15;

  bool causal = false;
  int64_t n_mels = 0;
  int64_t channels = 0;     // after the first convolution
  int64_t f0_channels = 0;  // of the pitch network
  int64_t f0_ahead = 0;     // mel frames ahead that the pitch of a frame needs (causal)
  int64_t ahead = 0;        // mel frames ahead that the decoder needs (causal)

  // Which of the two it is, and its sizes, from the shapes. Throws Error(format | unsupported).
  static HiftConfig read(const GgufFile& file);
};

// What the convolutions of a causal vocoder saw last: their inputs' last rows, zeros at the start of a
// stream.
struct HiftCache {
  ContextPtr context;
  BufferPtr buffer;
  std::vector<ggml_tensor*> decoder;  // in the order in which the graph meets them
  std::vector<ggml_tensor*> f0;

  void clear() const { ggml_backend_buffer_clear(buffer.get(), 0); }
};

struct F0Tensors {
  ggml_tensor* mel = nullptr;  // [n_mels, n (+ f0_ahead)]
  ggml_tensor* f0 = nullptr;   // [n] Hz
};

struct HiftTensors {
  ggml_tensor* mel = nullptr;       // [n_mels, n (+ ahead)]
  ggml_tensor* source = nullptr;    // [18, 120 n + 15] columns of the excitation's spectrum
  ggml_tensor* spectrum = nullptr;  // [18, 120 n (+ 1)]
  Stages stages;
};

// Weights of one vocoder. Immutable after construction.
class HiftNet {
 public:
  HiftNet(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device, const LinearPolicy& policy);

  const HiftConfig& config() const { return config_; }
  const Weights& weights() const { return weights_; }
  static size_t max_nodes();
  // Of mel frames, pitch included.
  Token2WavCost cost(int64_t frames) const;

  // n frames of pitch. The original network sees the frames as a whole (`cache` null), the causal one goes on
  // from the cache.
  F0Tensors build_f0(Graph& g, const HiftCache* cache, int64_t n) const;
  // n frames of spectrum; `first`: the beginning of an utterance, which has one more column.
  HiftTensors build(Graph& g, const HiftCache* cache, int64_t n, bool first, bool with_stages) const;
  HiftCache make_cache() const;

  // How the harmonics add up to the excitation: kHarmonics weights, then the bias.
  const std::array<float, HiftConfig::kHarmonics + 1>& source_weights() const { return source_weights_; }

 private:
  struct ResBlock {
    std::array<Conv1d, HiftConfig::kDilations> wide, narrow;
    std::array<Snake, HiftConfig::kDilations> wide_snake, narrow_snake;
  };
  struct Stage {
    Conv1d up;  // all phases at once: [3 in, stride * out]
    Conv1d source_down;
    ResBlock source;
    std::array<ResBlock, HiftConfig::kKernels> blocks;
  };
  class Surroundings;

  ResBlock load_block(const std::string& name, int64_t channels, const LinearPolicy& policy);
  Conv1d load_up(size_t stage, int64_t in, int64_t out, const LinearPolicy& policy);
  ggml_tensor* run(const Graph& g, const ResBlock& block, ggml_tensor* x, Surroundings& around) const;
  ggml_tensor* f0(Graph& g, ggml_tensor* mel, Surroundings& around) const;
  ggml_tensor* decode(Graph& g, HiftTensors& io, bool first, Surroundings& around) const;

  HiftConfig config_;
  Weights weights_;
  Conv1d pre_, post_;
  std::array<Stage, HiftConfig::kStages> stages_;
  std::array<Conv1d, 5> f0_convs_;
  Linear f0_out_;
  std::array<float, HiftConfig::kHarmonics + 1> source_weights_{};
};

}  // namespace omni
