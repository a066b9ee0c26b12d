// vision/tower.cpp - reading the vision file's sizes, the transformer's weights, and building its graph.
#include "vision/tower.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention.h"
#include "kernels/gelu.h"

namespace omni {
namespace {

constexpr int64_t kEmbedHeadDim = 128;  // of the resampler; the file has no key for it
constexpr int64_t kPatchRowMultiple = 16;

// Official files cross the names of the two MLP matrices: `ffn_down` widens. Shapes tell which is which.
struct MlpNames {
  std::string widen;
  std::string narrow;
};

MlpNames mlp_names(const GgufFile& file, const std::string& blk, int64_t width) {
  const bool crossed = file.tensor(blk + "ffn_down.weight").ne[0] == width;
  return crossed ? MlpNames{blk + "ffn_down", blk + "ffn_up"} : MlpNames{blk + "ffn_up", blk + "ffn_down"};
}

std::array<float, 3> rgb_values(const GgufFile& file, const char* key) {
  const std::vector<float> values = file.has(key) ? file.f32s(key) : std::vector<float>(3, 0.5F);
  require(values.size() == 3 &&
              std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }),
          ErrorCode::format, file.path(), ": ", key, " must be 3 finite numbers");
  return {values[0], values[1], values[2]};
}

}  // namespace

VisionConfig VisionConfig::read(const GgufFile& file) {
  const auto architecture = file.text("general.architecture");
  require(architecture == "clip" && file.find_tensor("resampler.query") != nullptr, ErrorCode::unsupported,
          file.path(), ": architecture '", architecture,
          "' without a resampler is not a vision encoder that omni knows (clip with resampler.query)");
  const auto checked = [&](const char* what, int64_t value, int64_t least, int64_t most) {
    require(value >= least && value <= most, ErrorCode::format, file.path(), ": ", what, " is ", value,
            ", which no model has");
    return value;
  };
  const auto number = [&](const char* key, int64_t most) { return checked(key, file.u32(key), 1, most); };
  VisionConfig c;
  c.n_layers = number("clip.vision.block_count", 1024);
  c.width = number("clip.vision.embedding_length", 1 << 16);
  c.ffn_width = number("clip.vision.feed_forward_length", 1 << 20);
  c.n_heads = number("clip.vision.attention.head_count", 1024);
  c.patch_size = number("clip.vision.patch_size", 256);
  c.scale_resolution = number("clip.vision.image_size", 8192);
  c.norm_eps = file.f32("clip.vision.attention.layer_norm_epsilon", 1e-6F);
  require(c.width % c.n_heads == 0, ErrorCode::format, file.path(), ": a width of ", c.width,
          " can't be split into ", c.n_heads, " heads");
  require(c.scale_resolution >= c.patch_size, ErrorCode::format, file.path(), ": slices of ",
          c.scale_resolution, " pixels are smaller than a patch of ", c.patch_size);
  require(c.norm_eps > 0 && c.norm_eps < 1, ErrorCode::format, file.path(), ": norm epsilon ", c.norm_eps,
          " is impossible");
  require(!file.has("clip.use_gelu") || file.boolean("clip.use_gelu", true), ErrorCode::unsupported,
          file.path(), ": only towers with the tanh form of GELU are supported");
  c.pixel_scale.mean = rgb_values(file, "clip.vision.image_mean");
  c.pixel_scale.std = rgb_values(file, "clip.vision.image_std");
  require(std::all_of(c.pixel_scale.std.begin(), c.pixel_scale.std.end(), [](float v) { return v > 0; }),
          ErrorCode::format, file.path(), ": clip.vision.image_std must be positive");

  const GgufTensor& table = file.tensor("v.position_embd.weight");
  c.table_side = std::lround(std::sqrt(static_cast<double>(table.ne[1])));
  require(table.ne[0] == c.width && c.table_side * c.table_side == table.ne[1], ErrorCode::format,
          file.path(), ": tensor 'v.position_embd.weight' has shape ", shape_text(table.ne), ", expected [",
          c.width, ", a square number]");
  checked("the side of the position table", c.table_side, 1, kMaxGridSide);

  const GgufTensor& query = file.tensor("resampler.query");
  c.embed_width = checked("the width of resampler.query", query.ne[0], 4, 1 << 17);
  c.n_queries = checked("the number of queries", query.ne[1], 1, 1 << 16);
  const int64_t stated = file.u32("clip.minicpmv_query_num", 0);
  require(stated == 0 || stated == c.n_queries, ErrorCode::format, file.path(),
          ": clip.minicpmv_query_num is ", stated, ", but resampler.query has ", c.n_queries, " rows");
  require(c.embed_width % kEmbedHeadDim == 0, ErrorCode::format, file.path(), ": a resampler of width ",
          c.embed_width, " can't be split into heads of ", kEmbedHeadDim);
  c.embed_heads = c.embed_width / kEmbedHeadDim;
  return c;
}

LayerNorm load_layer_norm(Weights& weights, const std::string& name, int64_t width, float eps) {
  return {weights.f32(name + ".weight", {width}), weights.f32(name + ".bias", {width}), eps};
}

ggml_tensor* layer_norm(ggml_context* ctx, const LayerNorm& norm, ggml_tensor* x) {
  return ggml_add(ctx, ggml_mul(ctx, ggml_norm(ctx, x, norm.eps), norm.weight), norm.bias);
}

VisionTower::VisionTower(const VisionConfig& config, Weights& weights, const LinearPolicy& policy)
    : config_(config), device_(weights.device()) {
  const VisionConfig& c = config_;
  // The patch weights are small: F32 keeps the pixels exact, and padded rows fit the vectorised kernels.
  patch_row_ = (c.patch_values() + kPatchRowMultiple - 1) / kPatchRowMultiple * kPatchRowMultiple;
  const GgufTensor& patch =
      weights.file().tensor("v.patch_embd.weight", {c.patch_size, c.patch_size, 3, c.width});
  const auto pad_rows = [patch, to_row = static_cast<size_t>(patch_row_)](float* out) {
    const size_t row = static_cast<size_t>(patch.elements() / patch.ne[3]);
    std::vector<float> values(static_cast<size_t>(patch.elements()));
    std::vector<float> scratch;
    convert_elements(patch.type, patch.data, GGML_TYPE_F32, values.data(), patch.elements(), scratch);
    for (size_t i = 0; i < values.size() / row; ++i) {
      std::memcpy(out + i * to_row, values.data() + i * row, row * sizeof(float));
    }
  };
  patch_.weight = weights.computed("v.patch_embd.weight", {patch_row_, c.width}, pad_rows);
  patch_.bias = weights.f32("v.patch_embd.bias", {c.width});
  positions_ = weights.tensor("v.position_embd.weight", {c.width, c.table_side * c.table_side});
  layers_.resize(static_cast<size_t>(c.n_layers));
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string blk = str("v.blk.", i, ".");
    const auto square = [&](const char* name) {
      return load_linear(weights, blk + name, c.width, c.width, Bias::required, policy);
    };
    Layer& layer = layers_[i];
    layer.norm1 = load_layer_norm(weights, blk + "ln1", c.width, c.norm_eps);
    layer.q = square("attn_q");
    layer.k = square("attn_k");
    layer.v = square("attn_v");
    layer.out = square("attn_out");
    layer.norm2 = load_layer_norm(weights, blk + "ln2", c.width, c.norm_eps);
    const MlpNames mlp = mlp_names(weights.file(), blk, c.width);
    // 4304 columns are not whole blocks; both matrices are widened by zeros, which change nothing.
    const int64_t inner = fast_row_length(weights, mlp.narrow, c.ffn_width, policy);
    layer.fc1 =
        load_padded_linear(weights, mlp.widen, c.width, c.ffn_width, c.width, inner, Bias::required, policy);
    layer.fc2 =
        load_padded_linear(weights, mlp.narrow, c.ffn_width, c.width, inner, c.width, Bias::required, policy);
  }
  post_norm_ = load_layer_norm(weights, "v.post_ln", c.width, c.norm_eps);
}

void VisionTower::list_matrices(std::vector<const ggml_tensor*>& out) const {
  out.push_back(patch_.weight);
  for (const Layer& l : layers_) {
    for (const Linear* m : {&l.q, &l.k, &l.v, &l.out, &l.fc1, &l.fc2}) out.push_back(m->weight);
  }
}

ggml_tensor* VisionTower::build(ggml_context* ctx, ggml_tensor* patches, ggml_tensor* positions,
                                int64_t stop_after) const {
  const int64_t n = positions->ne[0];
  const int64_t batch = patches->ne[1] / n;
  const int64_t width = config_.width;
  ggml_tensor* x = ggml_reshape_3d(ctx, linear(ctx, patch_, patches), width, n, batch);
  x = ggml_reshape_2d(ctx, ggml_add(ctx, x, ggml_get_rows(ctx, positions_, positions)), width, n * batch);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (static_cast<int64_t>(i) == stop_after) return x;
    const Layer& layer = layers_[i];
    ggml_tensor* h = layer_norm(ctx, layer.norm1, x);
    const auto project = [&](const Linear& to) {
      return ggml_reshape_3d(ctx, linear(ctx, to, h), width, n, batch);
    };
    ggml_tensor* a =
        attend(ctx, device_, project(layer.q), project(layer.k), project(layer.v), config_.n_heads);
    x = ggml_add(ctx, x, linear(ctx, layer.out, a));
    ggml_tensor* f = linear(ctx, {layer.fc1.weight, nullptr}, layer_norm(ctx, layer.norm2, x));
    x = ggml_add(ctx, x, linear(ctx, layer.fc2, gelu_tanh(ctx, device_, f, layer.fc1.bias)));
  }
  return stop_after == config_.n_layers ? x : layer_norm(ctx, post_norm_, x);
}

}  // namespace omni
