// token2wav/flow_encoder.cpp - reading the encoder's weights and building its graphs.
#include "token2wav/flow_encoder.h"

#include "omni/error.h"
#include "omni/voice.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace omni {
namespace {

// Epsilons of the reference: two of the layers' own norms, and PyTorch's default for the others.
constexpr float kLayerEps = 1e-12F;
constexpr float kNormEps = 1e-5F;
// Slope of PyTorch's leaky_relu.
constexpr float kLeak = 0.01F;
constexpr int64_t kHeadKernel = 3;
constexpr int64_t kUpKernel = 5;
// Relative positions that the shared tables hold: from kTableFirst downwards. They serve streams whose caches
// and chunk together stay within 1024 mel frames (a 17 s recording), in chunks of at most 64 frames.
constexpr int64_t kTableFirst = 1023;
constexpr int64_t kTableRows = kTableFirst + 64;

ggml_tensor* norm(ggml_context* ctx, ggml_tensor* x, ggml_tensor* w, ggml_tensor* b, float eps) {
  return ggml_add(ctx, ggml_mul(ctx, ggml_norm(ctx, x, eps), w), b);
}

// Rows [first, first + n) of one layer's cache.
ggml_tensor* rows_of(ggml_context* ctx, ggml_tensor* cache, int64_t first, int64_t n) {
  return ggml_view_2d(ctx, cache, cache->ne[0], n, cache->nb[1], static_cast<size_t>(first) * cache->nb[1]);
}

ggml_tensor* layer_of(ggml_context* ctx, ggml_tensor* cache, size_t i) {
  return ggml_view_2d(ctx, cache, cache->ne[0], cache->ne[1], cache->nb[1], i * cache->nb[2]);
}

}  // namespace

int64_t count_blocks(const GgufFile& file, const std::string& prefix) {
  int64_t count = 0;
  for (const GgufTensor& t : file.tensors()) {
    if (!t.name.starts_with(prefix)) continue;
    const std::string_view rest = t.name.substr(prefix.size());
    int64_t index = -1;
    std::from_chars(rest.data(), rest.data() + rest.size(), index);
    count = std::max(count, std::min<int64_t>(index, 1023) + 1);
  }
  require(count > 0, ErrorCode::format, file.path(), ": has no tensors '", prefix, "0.*'");
  return count;
}

FlowEncoderConfig FlowEncoderConfig::read(const GgufFile& encoder, const GgufFile& extra) {
  FlowEncoderConfig c;
  const GgufTensor& bias = encoder.tensor("encoders.0.self_attn.pos_bias_u");
  c.head_dim = bias.ne[0];
  c.n_heads = bias.ne[1];
  c.width = encoder.tensor("after_norm.weight").ne[0];
  c.ffn_width = encoder.tensor("encoders.0.feed_forward.w_1.weight").ne[1];
  c.look_ahead = encoder.tensor("pre_lookahead_layer.conv1.weight").ne[0] - 1;
  c.n_layers = count_blocks(encoder, "encoders.");
  c.n_up_layers = count_blocks(encoder, "up_encoders.");
  c.n_vocab = extra.tensor("input_embedding.weight").ne[1];
  c.n_mels = extra.tensor("encoder_proj.weight").ne[1];
  c.speaker_size = extra.tensor("spk_embed_affine_layer.weight").ne[0];
  require(c.n_heads * c.head_dim == c.width && c.width % 2 == 0, ErrorCode::format, encoder.path(), ": ",
          c.n_heads, " heads of ", c.head_dim, " don't make a width of ", c.width);
  require(c.n_mels == Voice::kMelBins && c.speaker_size == Voice::kEmbeddingSize, ErrorCode::unsupported,
          extra.path(), ": ", c.n_mels, " mel bins and speaker vectors of ", c.speaker_size, "; omni knows ",
          Voice::kMelBins, " and ", Voice::kEmbeddingSize);
  require(c.look_ahead >= 1 && c.look_ahead <= 64, ErrorCode::format, encoder.path(), ": a look-ahead of ",
          c.look_ahead, " tokens is impossible");
  return c;
}

FlowEncoderCache::FlowEncoderCache(const FlowEncoderConfig& c, const Device& device, int64_t max_tokens)
    : capacity(max_tokens), context(ggml_init({8 * ggml_tensor_overhead(), nullptr, true})) {
  ggml_context* ctx = context.get();
  head = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, c.width, kHeadKernel - 1);
  up = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, c.width, kUpKernel - 1);
  k = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, c.width, capacity, c.n_layers);
  v = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, c.width, capacity, c.n_layers);
  up_k = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, c.width, FlowEncoderConfig::kUp * capacity, c.n_up_layers);
  up_v = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, c.width, FlowEncoderConfig::kUp * capacity, c.n_up_layers);
  buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx, device.buffer_type()));
  require(buffer != nullptr, ErrorCode::out_of_memory,
          "not enough memory for the caches of the flow encoder");
  ggml_backend_buffer_clear(buffer.get(), 0);
}

FlowEncoder::FlowEncoder(std::shared_ptr<const GgufFile> encoder, std::shared_ptr<const GgufFile> extra,
                         std::shared_ptr<Device> device, const LinearPolicy& policy)
    : config_(FlowEncoderConfig::read(*encoder, *extra)),
      weights_(std::move(encoder), device),
      extra_(std::move(extra), std::move(device)) {
  const FlowEncoderConfig& c = config_;
  tokens_ = extra_.f32("input_embedding.weight", {c.width, c.n_vocab});
  proj_ = load_linear(extra_, "encoder_proj", c.width, c.n_mels, Bias::required, policy);
  extra_.file().tensor("spk_embed_affine_layer.weight", {c.speaker_size, c.n_mels});
  extra_.file().tensor("spk_embed_affine_layer.bias", {c.n_mels});
  Weights& w = weights_;
  embed_ = load_embed("embed.out", policy);
  up_embed_ = load_embed("up_embed.out", policy);
  look_ = load_conv1d(w, "pre_lookahead_layer.conv1", c.look_ahead + 1, c.width, c.width, policy);
  head_ = load_conv1d(w, "pre_lookahead_layer.conv2", kHeadKernel, c.width, c.width, policy);
  up_conv_ = load_conv1d(w, "up_layer.conv", kUpKernel, c.width, c.width, policy);
  for (int64_t i = 0; i < c.n_layers; ++i) layers_.push_back(load_layer(str("encoders.", i, "."), policy));
  for (int64_t i = 0; i < c.n_up_layers; ++i) {
    up_layers_.push_back(load_layer(str("up_encoders.", i, "."), policy));
    up_layers_.back().table = static_cast<size_t>(c.n_layers + i);
  }
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i].table = i;
  after_w_ = w.f32("after_norm.weight", {c.width});
  after_b_ = w.f32("after_norm.bias", {c.width});
  w.load();
  extra_.load();
}

FlowEncoder::Embed FlowEncoder::load_embed(const std::string& name, const LinearPolicy& policy) {
  Embed e;
  e.dense = load_linear(weights_, name + ".0", config_.width, config_.width, Bias::required, policy);
  e.norm_w = weights_.f32(name + ".1.weight", {config_.width});
  e.norm_b = weights_.f32(name + ".1.bias", {config_.width});
  return e;
}

FlowEncoder::Layer FlowEncoder::load_layer(const std::string& name, const LinearPolicy& policy) {
  const FlowEncoderConfig& c = config_;
  Weights& w = weights_;
  const auto dense = [&](const char* part, int64_t in, int64_t out, Bias bias = Bias::required) {
    return load_linear(w, name + part, in, out, bias, policy);
  };
  Layer l{};
  l.norm_w = w.f32(name + "norm_mha.weight", {c.width});
  l.norm_b = w.f32(name + "norm_mha.bias", {c.width});
  l.ffn_norm_w = w.f32(name + "norm_ff.weight", {c.width});
  l.ffn_norm_b = w.f32(name + "norm_ff.bias", {c.width});
  l.q = dense("self_attn.linear_q", c.width, c.width);
  l.k = dense("self_attn.linear_k", c.width, c.width);
  l.v = dense("self_attn.linear_v", c.width, c.width);
  l.out = dense("self_attn.linear_out", c.width, c.width);
  l.pos = dense("self_attn.linear_pos", c.width, c.width, Bias::none);
  l.bias_u = w.f32(name + "self_attn.pos_bias_u", {c.head_dim, c.n_heads});
  l.bias_v = w.f32(name + "self_attn.pos_bias_v", {c.head_dim, c.n_heads});
  l.ffn_in = dense("feed_forward.w_1", c.width, c.ffn_width);
  l.ffn_out = dense("feed_forward.w_2", c.ffn_width, c.width);
  return l;
}

Token2WavCost FlowEncoder::cost(int64_t tokens, int64_t seen) const {
  Token2WavCost cost;
  const auto run = [&](const std::vector<Layer>& layers, int64_t rows, int64_t all) {
    for (const Layer& l : layers) {
      for (const Linear* m : {&l.q, &l.k, &l.v, &l.out, &l.ffn_in, &l.ffn_out}) add_product(cost, *m, rows);
      // Queries with keys, with positions, and weights with values.
      cost.operations += 6.0 * static_cast<double>(config_.width) * static_cast<double>(rows * all);
    }
  };
  constexpr int64_t kUp = FlowEncoderConfig::kUp;
  for (const Linear* m : {&embed_.dense, &look_.taps, &head_.taps}) add_product(cost, *m, tokens);
  for (const Linear* m : {&up_conv_.taps, &up_embed_.dense, &proj_}) add_product(cost, *m, kUp * tokens);
  run(layers_, tokens, seen);
  run(up_layers_, kUp * tokens, kUp * seen);
  return cost;
}

size_t FlowEncoder::max_nodes() const {
  return 128 + 64 * (layers_.size() + up_layers_.size());
}

std::vector<float> FlowEncoder::speaker(std::span<const float> embedding) const {
  const auto size = static_cast<size_t>(config_.speaker_size);
  require(embedding.size() == size, ErrorCode::invalid_argument, "a speaker vector has ", size,
          " values, not ", embedding.size());
  const GgufFile& file = extra_.file();
  const auto values = [&](const char* name) {
    const GgufTensor& t = file.tensor(name);
    std::vector<float> out(static_cast<size_t>(t.elements()));
    std::vector<float> unused;
    convert_elements(t.type, t.data, GGML_TYPE_F32, out.data(), t.elements(), unused);
    return out;
  };
  const std::vector<float> w = values("spk_embed_affine_layer.weight");
  std::vector<float> out = values("spk_embed_affine_layer.bias");
  double sum = 0;
  for (const float e : embedding) sum += static_cast<double>(e) * e;
  const double scale = 1.0 / std::max(std::sqrt(sum), 1e-12);
  for (size_t m = 0; m < out.size(); ++m) {
    double y = 0;
    for (size_t i = 0; i < size; ++i) y += static_cast<double>(w[m * size + i]) * embedding[i];
    out[m] += static_cast<float>(y * scale);
  }
  return out;
}

void FlowEncoder::fill_angles(std::span<float> out, int64_t first) const {
  const auto width = static_cast<size_t>(config_.width);
  const double rate = std::log(10000.0) / static_cast<double>(width);
  for (size_t row = 0; row < out.size() / width; ++row) {
    const auto r = static_cast<float>(first - static_cast<int64_t>(row));
    for (size_t i = 0; i < width; i += 2) {
      const auto w = static_cast<float>(std::exp(-static_cast<double>(i) * rate));
      out[row * width + i] = std::sin(r * w);
      out[row * width + i + 1] = std::cos(r * w);
    }
  }
}

void FlowEncoder::make_tables(Executor& executor) {
  if (!tables_.empty()) return;
  const size_t n = layers_.size() + up_layers_.size();
  table_context_.reset(ggml_init({n * ggml_tensor_overhead(), nullptr, true}));
  require(table_context_ != nullptr, ErrorCode::out_of_memory, "no memory for the position tables");
  std::vector<ggml_tensor*> tables;
  for (size_t i = 0; i < n; ++i) {
    tables.push_back(ggml_new_tensor_2d(table_context_.get(), GGML_TYPE_F32, config_.width, kTableRows));
  }
  table_buffer_.reset(
      ggml_backend_alloc_ctx_tensors_from_buft(table_context_.get(), executor.device().buffer_type()));
  require(table_buffer_ != nullptr, ErrorCode::out_of_memory, "not enough memory for the position tables");
  Graph g(4 * n + 16);
  ggml_tensor* angles = g.input(GGML_TYPE_F32, {config_.width, kTableRows}, "angles");
  const auto project = [&](const Layer& layer) {
    g.effect(ggml_cpy(g.ctx(), linear(g.ctx(), layer.pos, angles), tables[layer.table]));
  };
  for (const Layer& layer : layers_) project(layer);
  for (const Layer& layer : up_layers_) project(layer);
  executor.place(g);
  std::vector<float> values(static_cast<size_t>(config_.width * kTableRows));
  fill_angles(values, kTableFirst);
  executor.set<float>(angles, values);
  executor.compute(g);
  tables_ = std::move(tables);
}

ggml_tensor* FlowEncoder::table(ggml_context* ctx, const Layer& layer, int64_t t, int64_t s) const {
  if (tables_.empty()) return nullptr;
  return rows_of(ctx, tables_[layer.table], kTableFirst - (s - 1), s + t - 1);
}

ggml_tensor* FlowEncoder::embed(ggml_context* ctx, const Embed& e, ggml_tensor* x) const {
  x = norm(ctx, linear(ctx, e.dense, x), e.norm_w, e.norm_b, kNormEps);
  return ggml_scale(ctx, x, std::sqrt(static_cast<float>(config_.width)));
}

// h [width, t] -> [width, t]. `positions` [width, s + t - 1]: projected relative positions s - 1, s - 2, ...
ggml_tensor* FlowEncoder::attend(Graph& g, const Layer& layer, ggml_tensor* h, ggml_tensor* positions,
                                 const Past& past) const {
  ggml_context* ctx = g.ctx();
  const FlowEncoderConfig& c = config_;
  const int64_t t = h->ne[1];
  const int64_t s = past.length + t;
  ggml_tensor* k = linear(ctx, layer.k, h);
  ggml_tensor* v = linear(ctx, layer.v, h);
  if (past.k != nullptr) {
    g.effect(ggml_cpy(ctx, k, rows_of(ctx, past.k, past.length, t)));
    g.effect(ggml_cpy(ctx, v, rows_of(ctx, past.v, past.length, t)));
    k = rows_of(ctx, past.k, 0, s);
    v = rows_of(ctx, past.v, 0, s);
  }
  // [width, n] as [head_dim, n, heads], without a copy.
  const auto heads_of = [&](ggml_tensor* x) {
    return ggml_view_3d(ctx, x, c.head_dim, x->ne[1], c.n_heads, x->nb[1],
                        static_cast<size_t>(c.head_dim) * x->nb[0], 0);
  };
  ggml_tensor* q = ggml_reshape_3d(ctx, linear(ctx, layer.q, h), c.head_dim, c.n_heads, t);
  const auto query = [&](ggml_tensor* bias) {
    return ggml_cont(ctx, ggml_permute(ctx, ggml_add(ctx, q, bias), 0, 2, 1, 3));
  };
  ggml_tensor* content = ggml_mul_mat(ctx, heads_of(k), query(layer.bias_u));        // [s, t, heads]
  ggml_tensor* place = ggml_mul_mat(ctx, heads_of(positions), query(layer.bias_v));  // [s + t - 1, t, heads]
  // Row a, column b needs relative position s - t + a - b, which lies at t - 1 - a + b: each row starts one
  // earlier than the one before it.
  place = ggml_view_3d(ctx, place, s, t, c.n_heads, place->nb[1] - place->nb[0], place->nb[2],
                       static_cast<size_t>(t - 1) * place->nb[0]);
  ggml_tensor* weights = ggml_soft_max_ext(ctx, ggml_add(ctx, content, place), nullptr,
                                           1.0F / std::sqrt(static_cast<float>(c.head_dim)), 0.0F);
  ggml_tensor* values = ggml_cont(ctx, ggml_permute(ctx, heads_of(v), 1, 0, 2, 3));  // [s, head_dim, heads]
  ggml_tensor* out = ggml_mul_mat(ctx, values, weights);                             // [head_dim, t, heads]
  out = ggml_cont_2d(ctx, ggml_permute(ctx, out, 0, 2, 1, 3), c.width, t);
  return linear(ctx, layer.out, out);
}

ggml_tensor* FlowEncoder::run(Graph& g, const Layer& layer, ggml_tensor* x, ggml_tensor* positions,
                              const Past& past) const {
  ggml_context* ctx = g.ctx();
  ggml_tensor* h = norm(ctx, x, layer.norm_w, layer.norm_b, kLayerEps);
  x = ggml_add(ctx, x, attend(g, layer, h, positions, past));
  h = norm(ctx, x, layer.ffn_norm_w, layer.ffn_norm_b, kLayerEps);
  return ggml_add(ctx, x, linear(ctx, layer.ffn_out, ggml_silu(ctx, linear(ctx, layer.ffn_in, h))));
}

FlowEncoderTensors FlowEncoder::build(Graph& g, const FlowEncoderCache* cache, int64_t n, bool last,
                                      int64_t past, bool with_stages) const {
  ggml_context* ctx = g.ctx();
  const FlowEncoderConfig& c = config_;
  const int64_t t = last ? n : n - c.look_ahead;
  FlowEncoderTensors io;
  io.stages = Stages(with_stages);
  io.ids = g.input(GGML_TYPE_I32, {n}, "ids");
  ggml_tensor* x = embed(ctx, embed_, ggml_get_rows(ctx, tokens_, io.ids));
  // Behind the end there are zeros, not embedded padding.
  if (last) x = ggml_pad(ctx, x, 0, static_cast<int>(c.look_ahead), 0, 0);

  // Look-ahead: row i sees rows i ... i + look_ahead, then the two rows before it.
  ggml_tensor* h = ggml_leaky_relu(ctx, conv1d(ctx, look_, x), kLeak, false);
  const auto with_past = [&](ggml_tensor* now, ggml_tensor* before, int64_t reach) {
    if (cache == nullptr) {
      return ggml_pad_ext(ctx, now, 0, 0, static_cast<int>(reach), 0, 0, 0, 0, 0);
    }
    ggml_tensor* joined = ggml_concat(ctx, before, now, 1);
    g.effect(ggml_cpy(ctx, rows_of(ctx, joined, joined->ne[1] - reach, reach), before));
    return joined;
  };
  h = conv1d(ctx, head_, with_past(h, cache == nullptr ? nullptr : cache->head, head_.reach()));
  x = ggml_add(ctx, h, rows_of(ctx, x, 0, t));
  io.stages.keep(g, x, "flow_pre_lookahead");

  const auto positions_of = [&](const Layer& layer, ggml_tensor*& angles, int64_t rows, int64_t s) {
    ggml_tensor* ready = cache != nullptr && s <= kTableFirst && rows <= kTableRows - kTableFirst
                             ? table(ctx, layer, rows, s)
                             : nullptr;
    if (ready != nullptr) return ready;
    if (angles == nullptr) angles = g.input(GGML_TYPE_F32, {c.width, s + rows - 1}, "angles");
    return linear(ctx, layer.pos, angles);
  };
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Past before =
        cache == nullptr ? Past{} : Past{layer_of(ctx, cache->k, i), layer_of(ctx, cache->v, i), past};
    x = run(g, layers_[i], x, positions_of(layers_[i], io.angles, t, before.length + t), before);
    if (i == 0) io.stages.keep(g, x, "flow_encoder_layer0");
  }
  // Every row twice.
  const int64_t frames = FlowEncoderConfig::kUp * t;
  x = ggml_repeat_4d(ctx, ggml_reshape_3d(ctx, x, c.width, 1, t), c.width, FlowEncoderConfig::kUp, t, 1);
  x = ggml_reshape_2d(ctx, x, c.width, frames);
  x = conv1d(ctx, up_conv_, with_past(x, cache == nullptr ? nullptr : cache->up, up_conv_.reach()));
  io.stages.keep(g, x, "flow_up");
  x = embed(ctx, up_embed_, x);
  for (size_t i = 0; i < up_layers_.size(); ++i) {
    const Past before = cache == nullptr ? Past{}
                                         : Past{layer_of(ctx, cache->up_k, i), layer_of(ctx, cache->up_v, i),
                                                FlowEncoderConfig::kUp * past};
    x = run(g, up_layers_[i], x, positions_of(up_layers_[i], io.up_angles, frames, before.length + frames),
            before);
  }
  x = norm(ctx, x, after_w_, after_b_, kNormEps);
  io.stages.keep(g, x, "flow_encoder");
  io.mu = g.output(linear(ctx, proj_, x), "mu");
  return io;
}

void FlowEncoder::set_inputs(const Executor& executor, const FlowEncoderTensors& t,
                             std::span<const int32_t> ids) const {
  executor.set<int32_t>(t.ids, ids);
  const int64_t frames = t.mu->ne[1];
  std::vector<float> values;
  const auto fill = [&](ggml_tensor* angles, int64_t rows) {
    if (angles == nullptr) return;
    values.resize(static_cast<size_t>(ggml_nelements(angles)));
    fill_angles(values, angles->ne[1] - rows);
    executor.set<float>(angles, values);
  };
  fill(t.angles, frames / FlowEncoderConfig::kUp);
  fill(t.up_angles, frames);
}

}  // namespace omni
