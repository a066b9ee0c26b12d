// token2wav/hift_net.cpp - reading the vocoders' weights and building their graphs.
#include "token2wav/hift_net.h"

#include "omni/error.h"
#include "omni/voice.h"

#include <algorithm>
#include <utility>

#include "token2wav/istft.h"

namespace omni {
namespace {

constexpr float kLeak = 0.1F;       // before each upsampling
constexpr float kPostLeak = 0.01F;  // before the last convolution: PyTorch's default
constexpr std::array<int64_t, HiftConfig::kDilations> kDilation = {1, 3, 5};
constexpr int64_t kPhaseTaps = 3;  // frames that one upsampled sample sees, in both generations

// Floor of a / b for b > 0.
int64_t floor_div(int64_t a, int64_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

ggml_tensor* columns(ggml_context* ctx, ggml_tensor* x, int64_t first, int64_t n) {
  return ggml_view_2d(ctx, x, x->ne[0], n, x->nb[1], static_cast<size_t>(first) * x->nb[1]);
}

}  // namespace

// Which frames each convolution gets around its input, in the order in which a graph meets them.
class HiftNet::Surroundings {
 public:
  struct Wanted {
    ggml_type type;
    int64_t channels, rows;
  };

  // `kept` null: zeros on both sides. Otherwise what the cache kept, which is then renewed.
  Surroundings(const std::vector<ggml_tensor*>* kept, bool causal) : kept_(kept), causal_(causal) {}

  // Of a signal of so many channels on its way to `conv`.
  Edges of(const Conv1d& conv, int64_t channels) {
    const int64_t reach = conv.reach();
    if (reach == 0) return {};
    wanted_.push_back({conv.taps.input_type(), channels, reach});
    if (kept_ != nullptr) return {reach, 0, (*kept_)[wanted_.size() - 1]};
    const int64_t before = causal_ ? reach : reach / 2;
    return {before, reach - before, nullptr};
  }
  // Of every cache tensor, in order.
  const std::vector<Wanted>& wanted() const { return wanted_; }

 private:
  const std::vector<ggml_tensor*>* kept_;
  bool causal_;
  std::vector<Wanted> wanted_;
};

HiftConfig HiftConfig::read(const GgufFile& file) {
  HiftConfig c;
  const GgufTensor& pre = file.tensor("conv_pre.weight");
  const GgufTensor& f0 = file.tensor("f0_predictor.condnet.0.weight");
  c.causal = pre.ne[0] == 5;
  require(pre.ne[0] == 5 || pre.ne[0] == 7, ErrorCode::unsupported, file.path(),
          ": conv_pre has a kernel of ", pre.ne[0], "; the vocoders that omni knows have 7 or 5");
  c.n_mels = pre.ne[1];
  c.channels = pre.ne[2];
  c.f0_channels = f0.ne[2];
  c.ahead = c.causal ? pre.ne[0] - 1 : 0;
  c.f0_ahead = c.causal ? f0.ne[0] - 1 : 0;
  require(c.n_mels == Voice::kMelBins && c.channels % 8 == 0 && c.channels > 0, ErrorCode::unsupported,
          file.path(), ": a vocoder for ", c.n_mels, " mel bins with ", c.channels, " channels");
  require(f0.ne[0] == (c.causal ? 4 : 3), ErrorCode::format, file.path(), ": the pitch network's kernel is ",
          f0.ne[0], ", which does not go with a conv_pre kernel of ", pre.ne[0]);
  return c;
}

HiftNet::HiftNet(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device,
                 const LinearPolicy& policy)
    : config_(HiftConfig::read(*file)), weights_(std::move(file), std::move(device)) {
  const HiftConfig& c = config_;
  Weights& w = weights_;
  // The pitch decides phases over seconds: it is never rounded.
  const LinearPolicy exact{WeightFormat::stored, policy.repack};
  for (size_t i = 0; i < f0_convs_.size(); ++i) {
    f0_convs_[i] = load_conv1d(w, str("f0_predictor.condnet.", 2 * i), i == 0 && c.causal ? 4 : 3,
                               i == 0 ? c.n_mels : c.f0_channels, c.f0_channels, exact);
  }
  f0_out_ = load_linear(w, "f0_predictor.classifier", c.f0_channels, 1, Bias::required, exact);
  pre_ = load_conv1d(w, "conv_pre", c.causal ? 5 : 7, c.n_mels, c.channels, policy);
  int64_t in = c.channels;
  for (size_t i = 0; i < HiftConfig::kStages; ++i) {
    Stage& s = stages_[i];
    const int64_t out = in / 2;
    s.up = load_up(i, in, out, policy);
    const int64_t down = HiftConfig::kDown[i];
    s.source_down = load_conv1d(w, str("source_downs.", i), down == 1 ? 1 : 2 * down, VocoderStft::kColumn,
                                out, policy, down);
    s.source = load_block(str("source_resblocks.", i), out, policy);
    for (size_t j = 0; j < HiftConfig::kKernels; ++j) {
      s.blocks[j] = load_block(str("resblocks.", HiftConfig::kKernels * i + j), out, policy);
    }
    in = out;
  }
  post_ = load_conv1d(w, "conv_post", 7, in, VocoderStft::kColumn, policy);
  const GgufTensor& harmonics =
      weights_.file().tensor("m_source.l_linear.weight", {HiftConfig::kHarmonics, 1});
  const GgufTensor& bias = weights_.file().tensor("m_source.l_linear.bias", {1});
  std::vector<float> unused;
  convert_elements(harmonics.type, harmonics.data, GGML_TYPE_F32, source_weights_.data(),
                   HiftConfig::kHarmonics, unused);
  convert_elements(bias.type, bias.data, GGML_TYPE_F32, &source_weights_.back(), 1, unused);
  w.load();
}

HiftNet::ResBlock HiftNet::load_block(const std::string& name, int64_t channels, const LinearPolicy& policy) {
  ResBlock b;
  const int64_t kernel = weights_.file().tensor(name + ".convs1.0.weight").ne[0];
  require(kernel % 2 == 1 && kernel <= 63, ErrorCode::format, weights_.file().path(), ": ", name,
          " has a kernel of ", kernel, ", expected an odd one");
  for (size_t d = 0; d < HiftConfig::kDilations; ++d) {
    b.wide[d] =
        load_conv1d(weights_, str(name, ".convs1.", d), kernel, channels, channels, policy, 1, kDilation[d]);
    b.narrow[d] = load_conv1d(weights_, str(name, ".convs2.", d), kernel, channels, channels, policy);
    b.wide_snake[d] = load_snake(weights_, str(name, ".activations1.", d), channels);
    b.narrow_snake[d] = load_snake(weights_, str(name, ".activations2.", d), channels);
  }
  return b;
}

// Upsampling as one product: output sample u s + r is phase r of frame s, and every phase sees three frames.
// Original: a transposed convolution, frames s - 1 ... s + 1. Causal: nearest frames, then a convolution over
// earlier samples, whose taps on one frame add up: frames s - 2 ... s.
Conv1d HiftNet::load_up(size_t stage, int64_t in, int64_t out, const LinearPolicy& policy) {
  const std::string name = str("ups.", stage);
  const GgufFile& file = weights_.file();
  const int64_t u = HiftConfig::kUp[stage];
  const bool causal = config_.causal;
  const int64_t kernel = file.tensor(name + ".weight").ne[0];
  const GgufTensor& source = causal ? file.tensor(name + ".weight", {kernel, in, out})
                                    : file.tensor(name + ".weight", {kernel, out, in});
  require(kernel / 2 == u, ErrorCode::unsupported, file.path(), ": ", name, " has a kernel of ", kernel,
          ", which does not go with ", u, "-fold upsampling");
  const int64_t pad = (kernel - u) / 2;
  const auto fill = [=, &file, &source](float* to) {
    std::vector<float> from(static_cast<size_t>(source.elements()));
    std::vector<float> unused;
    convert_elements(source.type, source.data, GGML_TYPE_F32, from.data(), source.elements(), unused);
    std::vector<double> row(static_cast<size_t>(kPhaseTaps * in));
    for (int64_t r = 0; r < u; ++r) {
      for (int64_t o = 0; o < out; ++o) {
        std::fill(row.begin(), row.end(), 0.0);
        for (int64_t j = 0; j < kernel; ++j) {
          // Which frame tap j of phase r falls on, and whether it falls on one.
          const int64_t at = causal ? floor_div(r - (kernel - 1) + j, u) : floor_div(r + pad - j, u);
          if (!causal && at * u != r + pad - j) continue;
          const int64_t tap = at + (causal ? kPhaseTaps - 1 : 1);
          for (int64_t i = 0; i < in; ++i) {
            const int64_t index = causal ? (o * in + i) * kernel + j : (i * out + o) * kernel + j;
            row[static_cast<size_t>(tap * in + i)] += from[static_cast<size_t>(index)];
          }
        }
        std::copy(row.begin(), row.end(), to + (r * out + o) * kPhaseTaps * in);
      }
    }
    file.drop_pages(source);
  };
  const GgufTensor& bias = file.tensor(name + ".bias", {out});
  Conv1d up;
  up.kernel = kPhaseTaps;
  ggml_tensor* phase_bias = weights_.computed(name + ".phase_bias", {u * out}, [=, &bias](float* to) {
    std::vector<float> unused;
    for (int64_t r = 0; r < u; ++r) {
      convert_elements(bias.type, bias.data, GGML_TYPE_F32, to + r * out, out, unused);
    }
  });
  up.taps = load_computed_linear(weights_, name + ".phases", kPhaseTaps * in, u * out, source.type, fill,
                                 phase_bias, policy);
  return up;
}

Token2WavCost HiftNet::cost(int64_t frames) const {
  Token2WavCost cost;
  const auto add = [&](const ResBlock& block, int64_t columns) {
    for (const auto& convs : {block.wide, block.narrow}) {
      for (const Conv1d& conv : convs) add_product(cost, conv.taps, columns);
    }
  };
  add_product(cost, pre_.taps, frames);
  for (const Conv1d& conv : f0_convs_) add_product(cost, conv.taps, frames);
  add_product(cost, f0_out_, frames);
  int64_t columns = frames;
  for (size_t i = 0; i < HiftConfig::kStages; ++i) {
    add_product(cost, stages_[i].up.taps, columns);  // all phases of a column at once
    columns *= HiftConfig::kUp[i];
    add_product(cost, stages_[i].source_down.taps, columns);
    add(stages_[i].source, columns);
    for (const ResBlock& block : stages_[i].blocks) add(block, columns);
  }
  add_product(cost, post_.taps, columns);
  return cost;
}

size_t HiftNet::max_nodes() {
  // Per convolution: unfolding, product, bias, activation, edges; four blocks of six a stage.
  return HiftConfig::kStages * (4 * 2 * HiftConfig::kDilations * 14 + 32) + 64;
}

ggml_tensor* HiftNet::run(const Graph& g, const ResBlock& block, ggml_tensor* x, Surroundings& around) const {
  const int64_t channels = x->ne[0];
  const auto prepare = [&](const Conv1d& conv) {
    return Prepare(g, weights_.device(), conv.taps.input_type());
  };
  for (size_t d = 0; d < HiftConfig::kDilations; ++d) {
    const Conv1d& wide = block.wide[d];
    const Conv1d& narrow = block.narrow[d];
    ggml_tensor* y = prepare(wide).snake(x, block.wide_snake[d], around.of(wide, channels));
    y = conv1d(g.ctx(), wide, y);
    y = prepare(narrow).snake(y, block.narrow_snake[d], around.of(narrow, channels));
    x = conv1d_onto(g.ctx(), narrow, y, x, nullptr);
  }
  return x;
}

ggml_tensor* HiftNet::f0(Graph& g, ggml_tensor* mel, Surroundings& around) const {
  ggml_context* ctx = g.ctx();
  ggml_tensor* x = mel;
  for (size_t i = 0; i < f0_convs_.size(); ++i) {
    // The causal network's first convolution looks ahead only: its input has these frames already.
    const bool edges = i > 0 || !config_.causal;
    if (edges) x = Prepare(g, weights_.device()).copy(x, around.of(f0_convs_[i], x->ne[0]));
    x = ggml_elu(ctx, conv1d(ctx, f0_convs_[i], x));
  }
  return ggml_abs(ctx, linear(ctx, f0_out_, x));
}

F0Tensors HiftNet::build_f0(Graph& g, const HiftCache* cache, int64_t n) const {
  F0Tensors io;
  io.mel = g.input(GGML_TYPE_F32, {config_.n_mels, n + config_.f0_ahead}, "mel");
  Surroundings around(cache == nullptr ? nullptr : &cache->f0, config_.causal);
  io.f0 = g.output(f0(g, io.mel, around), "f0");
  return io;
}

ggml_tensor* HiftNet::decode(Graph& g, HiftTensors& io, bool first, Surroundings& around) const {
  ggml_context* ctx = g.ctx();
  const auto prepare = [&](const Conv1d& conv) {
    return Prepare(g, weights_.device(), conv.taps.input_type());
  };
  ggml_tensor* x = io.mel;
  if (!config_.causal) x = prepare(pre_).copy(x, around.of(pre_, x->ne[0]));
  x = conv1d(ctx, pre_, x);
  io.stages.keep(g, x, "hift_conv_pre");
  for (size_t i = 0; i < HiftConfig::kStages; ++i) {
    const Stage& s = stages_[i];
    const int64_t u = HiftConfig::kUp[i];
    const int64_t n = x->ne[1];
    x = conv1d(ctx, s.up, prepare(s.up).leaky(x, kLeak, around.of(s.up, x->ne[0])));
    x = ggml_reshape_2d(ctx, x, x->ne[0] / u, u * n);
    io.stages.keep(g, x, str("hift_up", i));
    // At the last rate an utterance starts with a mirrored column.
    const bool last = i + 1 == HiftConfig::kStages;
    if (last && first) x = ggml_concat(ctx, columns(ctx, x, 1, 1), x, 1);
    // The columns start as far ahead of the frames as the widest filter reaches: all of its reach but one
    // step for the causal vocoder, half of it for the original one.
    const auto reach = [&](int64_t stride) { return config_.causal ? stride - 1 : stride / 2; };
    int64_t offset = reach(HiftConfig::kDown[0]) - reach(s.source_down.stride);
    if (config_.causal && last && !first) ++offset;  // this column was the last of the frames before
    const int64_t seen = (x->ne[1] - 1) * s.source_down.stride + s.source_down.kernel;
    ggml_tensor* source = conv1d(ctx, s.source_down, columns(ctx, io.source, offset, seen));
    io.stages.keep(g, source, str("hift_source_down", i));
    source = run(g, s.source, source, around);
    io.stages.keep(g, source, str("hift_source_res", i));
    x = ggml_add(ctx, x, source);
    ggml_tensor* sum = nullptr;
    for (const ResBlock& block : s.blocks) {
      ggml_tensor* y = run(g, block, x, around);
      sum = sum == nullptr ? y : ggml_add(ctx, sum, y);
    }
    x = ggml_scale(ctx, sum, 1.0F / static_cast<float>(HiftConfig::kKernels));
  }
  x = conv1d(ctx, post_, prepare(post_).leaky(x, kPostLeak, around.of(post_, x->ne[0])));
  io.stages.keep(g, x, "hift_conv_post");
  return x;
}

HiftTensors HiftNet::build(Graph& g, const HiftCache* cache, int64_t n, bool first, bool with_stages) const {
  HiftTensors io;
  io.stages = Stages(with_stages);
  io.mel = g.input(GGML_TYPE_F32, {config_.n_mels, n + config_.ahead}, "mel");
  io.source = g.input(GGML_TYPE_F32,
                      {VocoderStft::kColumn, HiftConfig::kColumns * n + HiftConfig::kColumnMargin}, "source");
  Surroundings around(cache == nullptr ? nullptr : &cache->decoder, config_.causal);
  io.spectrum = g.output(decode(g, io, first, around), "spectrum");
  return io;
}

HiftCache HiftNet::make_cache() const {
  // A graph without a cache tells which edges there are.
  Graph g(2 * max_nodes());
  Surroundings decoder_edges(nullptr, config_.causal);
  Surroundings f0_edges(nullptr, config_.causal);
  HiftTensors io;
  io.mel = g.input(GGML_TYPE_F32, {config_.n_mels, 1 + config_.ahead}, "mel");
  io.source = g.input(GGML_TYPE_F32, {VocoderStft::kColumn, HiftConfig::kColumns + HiftConfig::kColumnMargin},
                      "source");
  decode(g, io, true, decoder_edges);
  f0(g, g.input(GGML_TYPE_F32, {config_.n_mels, 1 + config_.f0_ahead}, "mel"), f0_edges);

  HiftCache cache;
  const size_t n = decoder_edges.wanted().size() + f0_edges.wanted().size();
  cache.context.reset(ggml_init({n * ggml_tensor_overhead(), nullptr, true}));
  require(cache.context != nullptr, ErrorCode::out_of_memory, "no memory for the vocoder's caches");
  const auto make = [&](const Surroundings& around, std::vector<ggml_tensor*>& out) {
    for (const auto& [type, channels, rows] : around.wanted()) {
      out.push_back(ggml_new_tensor_2d(cache.context.get(), type, channels, rows));
    }
  };
  make(decoder_edges, cache.decoder);
  make(f0_edges, cache.f0);
  cache.buffer.reset(
      ggml_backend_alloc_ctx_tensors_from_buft(cache.context.get(), weights_.device().buffer_type()));
  require(cache.buffer != nullptr, ErrorCode::out_of_memory, "not enough memory for the vocoder's caches");
  cache.clear();
  return cache;
}

}  // namespace omni
