// llm/decoder.cpp - reading the decoder's weights and building its graphs.
#include "llm/decoder.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>

namespace omni {

DecoderConfig DecoderConfig::read(const GgufFile& file, const std::string& architecture, const char* role) {
  DecoderConfig c;
  c.architecture = file.text("general.architecture");
  require(c.architecture == architecture, ErrorCode::unsupported, file.path(), ": architecture '",
          c.architecture, "' is not a ", role, " that omni knows (", architecture, ")");
  c.qk_norm = architecture == "qwen3";
  // Converters to "llama" reorder the rows of queries and keys for this form of the rotation.
  c.neighbour_pairs = architecture == "llama";
  const auto key = [&](const char* name) { return c.architecture + "." + name; };
  c.n_layers = file.u32(key("block_count"));
  c.width = file.u32(key("embedding_length"));
  c.n_heads = file.u32(key("attention.head_count"));
  c.n_kv_heads = file.u32(key("attention.head_count_kv"), static_cast<uint32_t>(c.n_heads));
  c.ffn_width = file.u32(key("feed_forward_length"));
  c.n_ctx_train = file.u32(key("context_length"));
  c.norm_eps = file.f32(key("attention.layer_norm_rms_epsilon"));
  c.rope_base = file.f32(key("rope.freq_base"));
  const auto in_range = [&](const char* what, int64_t value, int64_t most) {
    require(value >= 1 && value <= most, ErrorCode::format, file.path(), ": ", what, " is ", value,
            ", which no model has");
  };
  in_range("block_count", c.n_layers, 1024);
  in_range("embedding_length", c.width, 1 << 17);
  in_range("head_count", c.n_heads, 1024);
  in_range("head_count_kv", c.n_kv_heads, c.n_heads);
  in_range("feed_forward_length", c.ffn_width, 1 << 20);
  in_range("context_length", c.n_ctx_train, 1 << 24);
  c.head_dim = file.u32(key("attention.key_length"), static_cast<uint32_t>(c.width / c.n_heads));
  in_range("key_length", c.head_dim, 1024);
  require(file.u32(key("attention.value_length"), static_cast<uint32_t>(c.head_dim)) == c.head_dim,
          ErrorCode::unsupported, file.path(), ": keys and values of different sizes are not supported");
  require(c.n_heads % c.n_kv_heads == 0 && c.head_dim % 2 == 0, ErrorCode::format, file.path(), ": ",
          c.n_heads, " heads with ", c.n_kv_heads, " key heads of size ", c.head_dim, " don't fit together");
  require(c.norm_eps > 0 && c.norm_eps < 1 && c.rope_base > 1, ErrorCode::format, file.path(),
          ": norm epsilon ", c.norm_eps, " or rope base ", c.rope_base, " is impossible");
  return c;
}

Decoder::Decoder(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device,
                 const DecoderConfig& config, const LinearPolicy& policy, const Output& output)
    : config_(config), weights_(std::move(file), std::move(device)) {
  const DecoderConfig& c = config_;
  Weights& w = weights_;
  output_norm_ = w.f32("output_norm.weight", {c.width});
  output_.weight = output(w);
  layers_.resize(static_cast<size_t>(c.n_layers));
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string blk = str("blk.", i, ".");
    const auto dense = [&](const char* name, int64_t in, int64_t out) {
      return load_linear(w, blk + name, in, out, Bias::none, policy);
    };
    Layer& layer = layers_[i];
    layer.attn_norm = w.f32(blk + "attn_norm.weight", {c.width});
    layer.q = dense("attn_q", c.width, c.n_heads * c.head_dim);
    layer.k = dense("attn_k", c.width, c.kv_width());
    layer.v = dense("attn_v", c.width, c.kv_width());
    if (c.qk_norm) {
      layer.q_norm = w.f32(blk + "attn_q_norm.weight", {c.head_dim});
      layer.k_norm = w.f32(blk + "attn_k_norm.weight", {c.head_dim});
    }
    layer.o = dense("attn_output", c.n_heads * c.head_dim, c.width);
    layer.ffn_norm = w.f32(blk + "ffn_norm.weight", {c.width});
    layer.gate = dense("ffn_gate", c.width, c.ffn_width);
    layer.up = dense("ffn_up", c.width, c.ffn_width);
    layer.down = dense("ffn_down", c.ffn_width, c.width);
  }
  w.load();
}

MatrixTotals Decoder::matrices() const {
  std::vector<const ggml_tensor*> all = {output_.weight};
  for (const Layer& l : layers_) {
    for (const Linear* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) all.push_back(m->weight);
  }
  return total(all);
}

size_t Decoder::max_nodes() const {
  return 64 + 48 * layers_.size();
}

ggml_tensor* Decoder::norm(ggml_context* ctx, ggml_tensor* x, ggml_tensor* weight) const {
  return ggml_mul(ctx, ggml_rms_norm(ctx, x, config_.norm_eps), weight);
}

// x [head_dim, heads, n].
ggml_tensor* Decoder::rope(ggml_context* ctx, ggml_tensor* x, ggml_tensor* positions) const {
  return ggml_rope_ext(ctx, x, positions, nullptr, static_cast<int>(config_.head_dim),
                       config_.neighbour_pairs ? GGML_ROPE_TYPE_NORMAL : GGML_ROPE_TYPE_NEOX, 0,
                       config_.rope_base, 1.0F, 0.0F, 1.0F, 0.0F, 0.0F);
}

ggml_tensor* Decoder::heads(ggml_context* ctx, ggml_tensor* x, ggml_tensor* norm_weight,
                            ggml_tensor* positions) const {
  x = ggml_reshape_3d(ctx, x, config_.head_dim, x->ne[0] / config_.head_dim, x->ne[1]);
  if (norm_weight != nullptr) x = norm(ctx, x, norm_weight);
  return rope(ctx, x, positions);
}

void Decoder::remember(Graph& g, const Layer& layer, ggml_tensor* x, ggml_tensor* k_cache,
                       ggml_tensor* v_cache, const DecoderTensors& t) const {
  ggml_context* ctx = g.ctx();
  const DecoderConfig& c = config_;
  const int64_t n = x->ne[1];
  ggml_tensor* k = heads(ctx, linear(ctx, layer.k, x), layer.k_norm, t.positions);
  ggml_tensor* v = linear(ctx, layer.v, x);
  g.effect(ggml_set_rows(ctx, k_cache, ggml_reshape_2d(ctx, k, c.kv_width(), n), t.cache_rows));
  g.effect(ggml_set_rows(ctx, v_cache, v, t.cache_rows));
}

ggml_tensor* Decoder::attend(Graph& g, const Layer& layer, ggml_tensor* x, ggml_tensor* k_cache,
                             ggml_tensor* v_cache, int64_t n_kv, const DecoderTensors& t) const {
  ggml_context* ctx = g.ctx();
  const DecoderConfig& c = config_;
  const int64_t n = x->ne[1];
  ggml_tensor* q = heads(ctx, linear(ctx, layer.q, x), layer.q_norm, t.positions);
  q = ggml_permute(ctx, q, 0, 2, 1, 3);  // [head_dim, n, heads]
  // The cache as [head_dim, n_kv, kv heads], without a copy.
  const auto heads_of = [&](ggml_tensor* cache) {
    const size_t head = ggml_row_size(cache->type, c.head_dim);
    return ggml_view_3d(ctx, cache, c.head_dim, n_kv, c.n_kv_heads, cache->nb[1], head, 0);
  };
  const float scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim));
  ggml_tensor* out =
      ggml_flash_attn_ext(ctx, q, heads_of(k_cache), heads_of(v_cache), t.mask, scale, 0.0F, 0.0F);
  ggml_flash_attn_ext_set_prec(out, GGML_PREC_F32);
  return ggml_reshape_2d(ctx, out, c.n_heads * c.head_dim, n);
}

DecoderTensors Decoder::build(Graph& g, const KvTensors& kv, int64_t n, int64_t n_kv, int64_t n_rows,
                              Hidden hidden) const {
  ggml_context* ctx = g.ctx();
  const bool all = hidden == Hidden::all;
  DecoderTensors t;
  t.embeds = g.input(GGML_TYPE_F32, {config_.width, n}, "embeds");
  t.positions = g.input(GGML_TYPE_I32, {n}, "positions");
  t.cache_rows = g.input(GGML_TYPE_I64, {n}, "cache_rows");
  if (n_rows > 0 && n_rows < n) t.rows = g.input(GGML_TYPE_I32, {n_rows}, "rows");
  // If nothing is read, the last layer only has to leave its keys and values.
  const bool write_only = n_rows == 0 && !all;
  if (!write_only || layers_.size() > 1) t.mask = g.input(GGML_TYPE_F16, {n_kv, n}, "mask");

  ggml_tensor* x = t.embeds;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const bool last = i + 1 == layers_.size();
    ggml_tensor* h = norm(ctx, x, layer.attn_norm);
    remember(g, layer, h, kv.k[i], kv.v[i], t);
    if (last && write_only) return t;
    ggml_tensor* a = attend(g, layer, h, kv.k[i], kv.v[i], n_kv, t);
    // Of the last layer only the wanted rows go on.
    if (last && !all && t.rows != nullptr) {
      a = ggml_get_rows(ctx, a, t.rows);
      x = ggml_get_rows(ctx, x, t.rows);
    }
    x = ggml_add(ctx, x, linear(ctx, layer.o, a));
    ggml_tensor* f = norm(ctx, x, layer.ffn_norm);
    f = ggml_swiglu_split(ctx, linear(ctx, layer.gate, f), linear(ctx, layer.up, f));
    x = ggml_add(ctx, x, linear(ctx, layer.down, f));
  }
  t.hidden = g.output(norm(ctx, x, output_norm_), "hidden");
  if (n_rows > 0) {
    ggml_tensor* h = all && t.rows != nullptr ? ggml_get_rows(ctx, t.hidden, t.rows) : t.hidden;
    t.logits = g.output(linear(ctx, output_, h), "logits");
  }
  return t;
}

MoveTensors Decoder::build_move(Graph& g, const KvTensors& kv, int64_t n) const {
  ggml_context* ctx = g.ctx();
  MoveTensors t;
  t.source = g.input(GGML_TYPE_I32, {n}, "source");
  t.target = g.input(GGML_TYPE_I64, {n}, "target");
  t.turn = g.input(GGML_TYPE_I32, {n}, "turn");
  for (size_t i = 0; i < layers_.size(); ++i) {
    // get_rows() gives floats, so rotation is exact in float and the result is rounded once.
    ggml_tensor* k = ggml_get_rows(ctx, kv.k[i], t.source);
    k = rope(ctx, ggml_reshape_3d(ctx, k, config_.head_dim, config_.n_kv_heads, n), t.turn);
    ggml_tensor* v = ggml_get_rows(ctx, kv.v[i], t.source);
    g.effect(ggml_set_rows(ctx, kv.k[i], ggml_reshape_2d(ctx, k, config_.kv_width(), n), t.target));
    g.effect(ggml_set_rows(ctx, kv.v[i], v, t.target));
  }
  return t;
}

}  // namespace omni
