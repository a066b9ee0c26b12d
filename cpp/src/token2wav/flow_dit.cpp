// token2wav/flow_dit.cpp - reading the estimator's weights and unrolling the solver into a graph.
#include "token2wav/flow_dit.h"

#include "omni/error.h"
#include "omni/voice.h"

#include <cmath>

#include "token2wav/flow_encoder.h"

namespace omni {
namespace {

constexpr float kBlockEps = 1e-6F;  // norms without weights, inside the blocks
constexpr float kNormEps = 1e-5F;   // norms with weights: PyTorch's default
constexpr float kGuidance = 0.7F;   // inference_cfg_rate of the published flow.yaml
constexpr int kMaxSteps = 100;
constexpr size_t kParts = 9;  // shift, scale, gate of attention, then of the mlp, then of the convolution
enum Part : size_t { attention = 0, mlp = 3, convolution = 6 };

// One step and block of a cache: [width, rows, 2].
ggml_tensor* slice(ggml_context* ctx, ggml_tensor* cache, size_t i) {
  return ggml_view_3d(ctx, cache, cache->ne[0], cache->ne[1], cache->ne[2], cache->nb[1], cache->nb[2],
                      i * cache->nb[3]);
}

}  // namespace

DitConfig DitConfig::read(const GgufFile& file) {
  DitConfig c;
  c.width = file.tensor("estimator.in_proj.bias").ne[0];
  c.n_inputs = file.tensor("estimator.in_proj.weight").ne[0];
  c.head_dim = file.tensor("estimator.blocks.0.attn.q_norm.weight").ne[0];
  c.ffn_width = file.tensor("estimator.blocks.0.mlp.fc1.bias").ne[0];
  c.n_mels = file.tensor("estimator.final_layer.linear.bias").ne[0];
  c.time_size = file.tensor("estimator.t_embedder.mlp.0.weight").ne[0];
  c.n_blocks = count_blocks(file, "estimator.blocks.");
  require(c.width % c.head_dim == 0 && c.time_size % 2 == 0, ErrorCode::format, file.path(),
          ": heads of size ", c.head_dim, " don't divide a width of ", c.width);
  c.n_heads = c.width / c.head_dim;
  require(c.n_mels == Voice::kMelBins && c.n_inputs == 4 * c.n_mels, ErrorCode::unsupported, file.path(),
          ": an estimator with ", c.n_inputs, " inputs and ", c.n_mels, " outputs; omni knows ",
          4 * Voice::kMelBins, " and ", Voice::kMelBins);
  return c;
}

DitCache::DitCache(const DitConfig& c, const DitCacheForm& wanted, const Device& device, int steps,
                   int64_t rows)
    : shape{c.head_dim, c.n_heads, rows + rows % 2, DitConfig::kBranches},
      form(wanted),
      context(ggml_init({8 * ggml_tensor_overhead(), nullptr, true})) {
  const auto make = [&](ggml_type type, int64_t columns, int64_t n) {
    return ggml_new_tensor_4d(context.get(), type, columns, n, DitConfig::kBranches, steps * c.n_blocks);
  };
  if (form.in_words) {
    k = make(GGML_TYPE_I32, shape.key_columns(), c.width / 2);
    v = make(GGML_TYPE_I32, shape.value_columns(), shape.rows / 2);
  } else {
    k = make(GGML_TYPE_F32, c.width, shape.rows);
    v = make(GGML_TYPE_F32, c.width, shape.rows);
  }
  conv_a = make(form.past, c.width, DitConfig::kConvReach);
  conv_b = make(form.past, c.width, DitConfig::kConvReach);
  buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), device.buffer_type()));
  require(buffer != nullptr, ErrorCode::out_of_memory, "not enough memory for the flow caches of ", rows,
          " mel frames and ", steps, " steps; use fewer steps or a shorter reference recording");
  ggml_backend_buffer_clear(buffer.get(), 0);
}

void DitCache::set_rows(size_t place, int64_t branch, std::span<const float> keys,
                        std::span<const float> values) {
  const auto put = [&](ggml_tensor* to, const auto& from) {
    ggml_backend_tensor_set(to, from.data(), place * to->nb[3] + static_cast<size_t>(branch) * to->nb[2],
                            from.size() * sizeof(from[0]));
  };
  if (!form.in_words) {
    put(k, keys);
    put(v, values);
    return;
  }
  std::vector<uint32_t> words(static_cast<size_t>(k->ne[0] * k->ne[1]));
  panels::pack_keys(shape, keys, words);
  put(k, words);
  words.assign(static_cast<size_t>(v->ne[0] * v->ne[1]), 0);
  panels::pack_values(shape, values, words);
  put(v, words);
}

void DitCache::set_past(size_t place, int64_t branch, std::span<const float> a, std::span<const float> b) {
  const auto put = [&](ggml_tensor* to, std::span<const float> from) {
    std::vector<uint8_t> stored(ggml_row_size(to->type, static_cast<int64_t>(from.size())));
    std::vector<float> unused;
    convert_elements(GGML_TYPE_F32, from.data(), to->type, stored.data(), static_cast<int64_t>(from.size()),
                     unused);
    ggml_backend_tensor_set(to, stored.data(), place * to->nb[3] + static_cast<size_t>(branch) * to->nb[2],
                            stored.size());
  };
  put(conv_a, a);
  put(conv_b, b);
}

Dit::Dit(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device, const LinearPolicy& policy)
    : config_(DitConfig::read(*file)), weights_(std::move(file), std::move(device)) {
  const DitConfig& c = config_;
  Weights& w = weights_;
  const auto dense = [&](const std::string& name, int64_t in, int64_t out) {
    return load_linear(w, "estimator." + name, in, out, Bias::required, policy);
  };
  // What is used once for a schedule stays as it is stored.
  const auto stored = [&](const std::string& name, int64_t in, int64_t out) {
    return load_linear(w, "estimator." + name, in, out, Bias::required, {WeightFormat::stored, false});
  };
  time_in_ = stored("t_embedder.mlp.0", c.time_size, c.width);
  time_out_ = stored("t_embedder.mlp.2", c.width, c.width);
  in_ = dense("in_proj", c.n_inputs, c.width);
  for (int64_t i = 0; i < c.n_blocks; ++i) {
    const std::string name = str("blocks.", i, ".");
    const auto vector = [&](const char* part, int64_t size) {
      return w.f32("estimator." + name + part, {size});
    };
    Block b{};
    const std::string attn = "estimator." + name + "attn.";
    const std::string parts[] = {attn + "to_q", attn + "to_k", attn + "to_v"};
    b.qkv = load_joined_linear(w, parts, c.width, c.width, policy);
    b.proj = dense(name + "attn.proj", c.width, c.width);
    b.q_norm_w = vector("attn.q_norm.weight", c.head_dim);
    b.q_norm_b = vector("attn.q_norm.bias", c.head_dim);
    b.k_norm_w = vector("attn.k_norm.weight", c.head_dim);
    b.k_norm_b = vector("attn.k_norm.bias", c.head_dim);
    const std::string conv = "estimator." + name + "conv.block.";
    b.conv_a = load_conv1d(w, conv + "1", DitConfig::kConvReach + 1, c.width, c.width, policy);
    b.conv_norm_w = vector("conv.block.3.weight", c.width);
    b.conv_norm_b = vector("conv.block.3.bias", c.width);
    b.conv_b = load_conv1d(w, conv + "6", DitConfig::kConvReach + 1, c.width, c.width, policy);
    b.fc1 = dense(name + "mlp.fc1", c.width, c.ffn_width);
    b.fc2 = dense(name + "mlp.fc2", c.ffn_width, c.width);
    b.modulation = stored(name + "adaLN_modulation.1", c.width, static_cast<int64_t>(kParts) * c.width);
    blocks_.push_back(b);
  }
  final_modulation_ = stored("final_layer.adaLN_modulation.1", c.width, 2 * c.width);
  final_ = dense("final_layer.linear", c.width, c.n_mels);
  w.load();
}

DitCacheForm Dit::cache_form() const {
  const Block& b = blocks_.front();
  return {b.qkv.outputs_in_panels != 0 && config_.head_dim % 2 == 0, b.conv_a.taps.input_type()};
}

size_t Dit::max_nodes(int steps) const {
  return 256 + static_cast<size_t>(steps) * (64 + 80 * blocks_.size());
}

std::vector<ggml_tensor*> Dit::matrices() const {
  std::vector<ggml_tensor*> out = {in_.weight, final_.weight};
  for (const Block& b : blocks_) {
    for (const Linear* m : {&b.qkv, &b.proj, &b.conv_a.taps, &b.conv_b.taps, &b.fc1, &b.fc2}) {
      out.push_back(m->weight);
    }
  }
  return out;
}

Token2WavCost Dit::cost(int steps, int64_t frames, int64_t seen) const {
  Token2WavCost step;
  for (ggml_tensor* m : matrices()) add_product(step, {m}, DitConfig::kBranches * frames);
  step.operations += 4.0 * static_cast<double>(config_.n_blocks * config_.width) *
                     static_cast<double>(DitConfig::kBranches * frames * seen);
  return {steps * step.operations, steps * step.bytes};
}

DitSchedule Dit::make_schedule(Executor& executor, int steps) const {
  require(steps >= 1 && steps <= kMaxSteps, ErrorCode::invalid_argument, "the flow takes 1 to ", kMaxSteps,
          " steps, not ", steps);
  const DitConfig& c = config_;
  DitSchedule s;
  s.steps = steps;
  // The reference's own order of roundings: its grid in float32, and time as a running float32 sum.
  std::vector<float> grid;
  for (int i = 0; i <= steps; ++i) {
    const float even = static_cast<float>(i) / static_cast<float>(steps);
    grid.push_back(1.0F - std::cos(even * 0.5F * 3.14159265F));
  }
  float t = grid[0];
  for (size_t i = 0; i < static_cast<size_t>(steps); ++i) {
    const float span = grid[i + 1] - t;
    s.times.push_back(t);
    s.spans.push_back(span);
    t += span;
  }

  s.context.reset(ggml_init({4 * ggml_tensor_overhead(), nullptr, true}));
  require(s.context != nullptr, ErrorCode::out_of_memory, "no memory for the flow's schedule");
  const auto all = static_cast<int64_t>(kParts) * c.width;
  s.blocks = ggml_new_tensor_3d(s.context.get(), GGML_TYPE_F32, all, c.n_blocks, steps);
  s.final = ggml_new_tensor_2d(s.context.get(), GGML_TYPE_F32, 2 * c.width, steps);
  s.buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(s.context.get(), executor.device().buffer_type()));
  require(s.buffer != nullptr, ErrorCode::out_of_memory, "not enough memory for the flow's schedule");

  Graph g(16 * blocks_.size() + 64);
  ggml_context* ctx = g.ctx();
  ggml_tensor* waves = g.input(GGML_TYPE_F32, {c.time_size, steps}, "waves");
  ggml_tensor* embedded = linear(ctx, time_out_, ggml_silu(ctx, linear(ctx, time_in_, waves)));
  g.output(embedded, "embedded time");
  ggml_tensor* active = ggml_silu(ctx, embedded);
  const auto one_more = [&](ggml_tensor* y, int64_t part) {  // y [n, steps]: 1 + scale where there is a scale
    ggml_tensor* row =
        ggml_view_2d(ctx, y, c.width, steps, y->nb[1], static_cast<size_t>(part * c.width) * sizeof(float));
    return ggml_scale_bias(ctx, ggml_cont(ctx, row), 1.0F, 1.0F);
  };
  const auto store = [&](ggml_tensor* y, ggml_tensor* to, std::initializer_list<int64_t> scales) {
    g.effect(ggml_cpy(ctx, y, to));
    for (const int64_t part : scales) {
      ggml_tensor* place = ggml_view_2d(ctx, to, c.width, steps, to->nb[1],
                                        static_cast<size_t>(part * c.width) * sizeof(float));
      g.effect(ggml_cpy(ctx, one_more(y, part), place));
    }
  };
  for (size_t i = 0; i < blocks_.size(); ++i) {
    ggml_tensor* place = ggml_view_2d(ctx, s.blocks, all, steps, s.blocks->nb[2], i * s.blocks->nb[1]);
    store(linear(ctx, blocks_[i].modulation, active), place, {1, 4, 7});
  }
  store(linear(ctx, final_modulation_, active), s.final, {1});
  executor.place(g);

  const auto half = static_cast<size_t>(c.time_size / 2);
  std::vector<float> values(2 * half * static_cast<size_t>(steps));
  for (size_t i = 0; i < static_cast<size_t>(steps); ++i) {
    for (size_t j = 0; j < half; ++j) {
      const auto rate = static_cast<float>(
          std::exp(-std::log(10000.0) * static_cast<double>(j) / static_cast<double>(half)));
      const float angle = 1000.0F * s.times[i] * rate;
      values[2 * half * i + j] = std::cos(angle);
      values[2 * half * i + half + j] = std::sin(angle);
    }
  }
  executor.set<float>(waves, values);
  executor.compute(g);
  s.embedding.resize(static_cast<size_t>(c.width * steps));
  executor.get<float>(embedded, s.embedding);
  return s;
}

// [width], one of the parts of a block's modulation.
ggml_tensor* Dit::modulation(ggml_context* ctx, const Place& at, size_t part) const {
  const ggml_tensor* all = at.schedule->blocks;
  const size_t offset = at.step * all->nb[2] + at.block * all->nb[1] +
                        part * static_cast<size_t>(config_.width) * sizeof(float);
  return ggml_view_1d(ctx, at.schedule->blocks, config_.width, offset);
}

// y [width, t, 2] -> [width, t, 2], not projected yet.
ggml_tensor* Dit::attend(Graph& g, const Place& at, ggml_tensor* y, const DitTensors& io) const {
  ggml_context* ctx = g.ctx();
  const Block& b = blocks_[at.block];
  ggml_tensor* qkv = linear(ctx, b.qkv, y);
  if (!cache_form().in_words) return attend_rows(g, at, qkv, io);
  const size_t i = at.step * blocks_.size() + at.block;
  ggml_tensor* k = at.cache == nullptr ? at.k : slice(ctx, at.cache->k, i);
  ggml_tensor* v = at.cache == nullptr ? at.v : slice(ctx, at.cache->v, i);
  const panels::CacheShape shape = at.cache == nullptr
                                       ? panels::CacheShape{config_.head_dim, config_.n_heads,
                                                            y->ne[1] + y->ne[1] % 2, DitConfig::kBranches}
                                       : at.cache->shape;
  return panels::attend(ctx, weights_.device(), qkv,
                        {b.q_norm_w, b.q_norm_b, b.k_norm_w, b.k_norm_b, kNormEps}, shape, k, v, io.slots,
                        io.mask, at.n_kv);
}

// The same with keys and values as rows of floats, by ggml's operators.
ggml_tensor* Dit::attend_rows(Graph& g, const Place& at, ggml_tensor* qkv, const DitTensors& io) const {
  ggml_context* ctx = g.ctx();
  const DitConfig& c = config_;
  const Block& b = blocks_[at.block];
  const int64_t t = qkv->ne[1];
  const auto third = [&](size_t i) {
    return ggml_view_4d(ctx, qkv, c.head_dim, c.n_heads, t, DitConfig::kBranches,
                        static_cast<size_t>(c.head_dim) * sizeof(float), qkv->nb[1], qkv->nb[2],
                        i * static_cast<size_t>(c.width) * sizeof(float));
  };
  const auto normal = [&](ggml_tensor* x, ggml_tensor* w, ggml_tensor* bias) {
    return ggml_add(ctx, ggml_mul(ctx, ggml_norm(ctx, ggml_cont(ctx, x), kNormEps), w), bias);
  };
  const auto as_rows = [&](ggml_tensor* x) {
    return ggml_reshape_3d(ctx, x, c.width, t, DitConfig::kBranches);
  };
  ggml_tensor* q = normal(third(0), b.q_norm_w, b.q_norm_b);
  ggml_tensor* k = as_rows(normal(third(1), b.k_norm_w, b.k_norm_b));
  ggml_tensor* v = as_rows(ggml_cont(ctx, third(2)));
  int64_t n_kv = t;
  if (at.cache != nullptr) {
    n_kv = at.n_kv;
    const size_t i = at.step * blocks_.size() + at.block;
    ggml_tensor* all_k = slice(ctx, at.cache->k, i);
    ggml_tensor* all_v = slice(ctx, at.cache->v, i);
    g.effect(ggml_set_rows(ctx, all_k, k, io.slots));
    g.effect(ggml_set_rows(ctx, all_v, v, io.slots));
    k = all_k;
    v = all_v;
  }
  // [width, n_kv, 2] as [head_dim, n_kv, heads, 2], without a copy.
  const auto heads_of = [&](ggml_tensor* x) {
    return ggml_view_4d(ctx, x, c.head_dim, n_kv, c.n_heads, DitConfig::kBranches, x->nb[1],
                        static_cast<size_t>(c.head_dim) * x->nb[0], x->nb[2], 0);
  };
  q = ggml_cont(ctx, ggml_permute(ctx, q, 0, 2, 1, 3));     // [head_dim, t, heads, 2]
  ggml_tensor* scores = ggml_mul_mat(ctx, heads_of(k), q);  // [n_kv, t, heads, 2]
  scores = ggml_soft_max_ext(ctx, scores, io.mask, 1.0F / std::sqrt(static_cast<float>(c.head_dim)), 0.0F);
  ggml_tensor* values = ggml_cont(ctx, ggml_permute(ctx, heads_of(v), 1, 0, 2, 3));
  ggml_tensor* out = ggml_mul_mat(ctx, values, scores);  // [head_dim, t, heads, 2]
  return ggml_cont_3d(ctx, ggml_permute(ctx, out, 0, 2, 1, 3), c.width, t, DitConfig::kBranches);
}

ggml_tensor* Dit::run(Graph& g, const Place& at, ggml_tensor* h, const DitTensors& io) const {
  ggml_context* ctx = g.ctx();
  const Block& b = blocks_[at.block];
  const auto shift = [&](size_t part) { return modulation(ctx, at, part); };
  const auto scale = [&](size_t part) { return modulation(ctx, at, part + 1); };
  const auto gate = [&](size_t part) { return modulation(ctx, at, part + 2); };
  const auto prepare = [&](const Linear& next) { return Prepare(g, weights_.device(), next.input_type()); };
  const auto edges = [&](ggml_tensor* DitCache::*past) {
    const size_t i = at.step * blocks_.size() + at.block;
    return Edges{DitConfig::kConvReach, 0, at.cache == nullptr ? nullptr : slice(ctx, at.cache->*past, i)};
  };
  ggml_tensor* y = prepare(b.qkv).norm(h, scale(attention), shift(attention), kBlockEps);
  h = linear_onto(ctx, b.proj, attend(g, at, y, io), h, gate(attention));
  y = prepare(b.conv_a.taps)
          .norm(h, scale(convolution), shift(convolution), kBlockEps, edges(&DitCache::conv_a));
  y = conv1d(ctx, b.conv_a, y);
  y = prepare(b.conv_b.taps).norm_mish(y, b.conv_norm_w, b.conv_norm_b, kNormEps, edges(&DitCache::conv_b));
  h = conv1d_onto(ctx, b.conv_b, y, h, gate(convolution));
  y = prepare(b.fc1).norm(h, scale(mlp), shift(mlp), kBlockEps);
  y = linear_gelu(ctx, weights_.device(), b.fc1, y);
  return linear_onto(ctx, b.fc2, y, h, gate(mlp));
}

// x [n_mels, t] -> the guided direction, [n_mels, t].
ggml_tensor* Dit::estimate(Graph& g, const Place& at, ggml_tensor* x, DitTensors& io) const {
  ggml_context* ctx = g.ctx();
  const DitConfig& c = config_;
  const int64_t t = x->ne[1];
  ggml_tensor* both = ggml_repeat_4d(ctx, x, c.n_mels, t, DitConfig::kBranches, 1);
  ggml_tensor* h = linear(ctx, in_, ggml_concat(ctx, both, io.condition, 0));
  Place place = at;
  for (place.block = 0; place.block < blocks_.size(); ++place.block) {
    h = run(g, place, h, io);
    if (at.step == 0 && place.block == 0) {
      io.stages.keep(g, ggml_view_2d(ctx, h, c.width, t, h->nb[1], 0), "flow_dit_block0_step0");
    }
  }
  const ggml_tensor* final = at.schedule->final;
  const auto part = [&](size_t i) {
    return ggml_view_1d(ctx, at.schedule->final, c.width,
                        at.step * final->nb[1] + i * static_cast<size_t>(c.width) * sizeof(float));
  };
  h = Prepare(g, weights_.device(), final_.input_type()).norm(h, part(1), part(0), kBlockEps);
  h = linear(ctx, final_, h);
  const auto branch = [&](size_t i) { return ggml_view_2d(ctx, h, c.n_mels, t, h->nb[1], i * h->nb[2]); };
  if (at.step == 0) {
    io.stages.keep(g, branch(0), "flow_dphi_step0_cond");
    io.stages.keep(g, branch(1), "flow_dphi_step0_uncond");
  }
  return ggml_sub(ctx, ggml_scale(ctx, branch(0), 1.0F + kGuidance), ggml_scale(ctx, branch(1), kGuidance));
}

DitTensors Dit::build(Graph& g, const DitSchedule& schedule, const DitCache* cache, int64_t t, int64_t n_kv,
                      bool masked, bool with_stages) const {
  ggml_context* ctx = g.ctx();
  const DitConfig& c = config_;
  DitTensors io;
  io.stages = Stages(with_stages);
  io.noise = g.input(GGML_TYPE_F32, {c.n_mels, t}, "noise");
  io.condition = g.input(GGML_TYPE_F32, {3 * c.n_mels, t, DitConfig::kBranches}, "condition");
  const bool in_words = cache_form().in_words;
  Place at{0, 0, &schedule, cache, n_kv, nullptr, nullptr};
  if (cache != nullptr || in_words) io.slots = g.input(GGML_TYPE_I64, {t}, "slots");
  if (cache == nullptr && in_words) {
    const panels::CacheShape shape{c.head_dim, c.n_heads, t + t % 2, DitConfig::kBranches};
    at.k = g.input(GGML_TYPE_I32, {shape.key_columns(), c.width / 2, DitConfig::kBranches}, "keys");
    at.v = g.input(GGML_TYPE_I32, {shape.value_columns(), shape.rows / 2, DitConfig::kBranches}, "values");
  }
  // Where attention has a kernel of ours, one row of the mask serves all frames.
  if (masked) io.mask = g.input(GGML_TYPE_F32, {n_kv, in_words ? 1 : t}, "mask");
  ggml_tensor* x = io.noise;
  for (at.step = 0; at.step < static_cast<size_t>(schedule.steps); ++at.step) {
    io.stages.keep(g, x, str("flow_x_step", at.step));
    ggml_tensor* d = estimate(g, at, x, io);
    x = ggml_add(ctx, x, ggml_scale(ctx, d, schedule.spans[at.step]));
  }
  io.mel = g.output(x, "mel");
  return io;
}

}  // namespace omni
