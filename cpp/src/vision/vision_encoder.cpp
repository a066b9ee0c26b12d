// vision/vision_encoder.cpp - loading, and encoding slices in batches of one shape.
#include "omni/vision_encoder.h"

#include "omni/error.h"
#include "omni/log.h"

#include <algorithm>

#include "base/graph.h"
#include "vision/resampler.h"
#include "vision/synthetic.h"
#include "vision/tower.h"

namespace omni {
namespace {

// Shapes of slices whose graphs are kept. A conversation with one camera needs two: overview and slices.
constexpr size_t kGraphs = 8;

// One picture keeps a processor busy; accelerators want more at once.
int default_batch(const Device& device) {
  return device.is_host() ? 1 : 16;
}

// How far a graph goes: transformer layers (-1: all, and the last norm), then the resampler's two steps.
struct Stage {
  int64_t layers = -1;
  bool resampled = true;
  bool projected = true;
};

struct EncodeTensors {
  ggml_tensor* patches = nullptr;    // [patch row, n * batch] F32
  ggml_tensor* buckets = nullptr;    // [n] I32, rows of the learned position table
  ggml_tensor* positions = nullptr;  // [embed_width, n] F32, null if the resampler doesn't run
  ggml_tensor* queries = nullptr;    // [embed_width, n_queries] F32, null if the resampler doesn't run
  ggml_tensor* out = nullptr;
};

}  // namespace

struct VisionEncoder::Impl {
  Impl(std::shared_ptr<const GgufFile> file_, const VisionEncoderOptions& options)
      : device(std::make_shared<Device>(options.device)),
        file(std::move(file_)),
        config(VisionConfig::read(*file)),
        weights(file, device),
        tower(config, weights, {parse_weight_format(options.weight_format), options.repack}),
        resampler(config, weights, {parse_weight_format(options.weight_format), options.repack}),
        executor(std::make_shared<Executor>(device)),
        graphs(executor, max_nodes(), kGraphs),
        max_batch(options.max_batch > 0 ? options.max_batch : default_batch(*device)) {
    require(options.max_batch >= 0 && options.max_batch <= 1024, ErrorCode::invalid_argument, "max_batch is ",
            options.max_batch, ", it must be 0 (automatic) to 1024");
    weights.load();
    info.n_layers = config.n_layers;
    info.width = config.width;
    info.ffn_width = config.ffn_width;
    info.n_heads = config.n_heads;
    info.n_queries = config.n_queries;
    info.embed_width = config.embed_width;
    info.table_side = config.table_side;
    info.scale_resolution = static_cast<int>(config.scale_resolution);
    info.patch_size = static_cast<int>(config.patch_size);
    for (const GgufTensor& t : file->tensors()) {
      // The stored position table is never read: positions of any grid are computed.
      if (t.name != "resampler.pos_embed_k") info.parameters += static_cast<uint64_t>(t.elements());
    }
    info.file_bytes = file->file_size();
    info.copied_bytes = weights.copied_bytes();
    std::vector<const ggml_tensor*> matrices;
    tower.list_matrices(matrices);
    resampler.list_matrices(matrices);
    const MatrixTotals totals = total(matrices);
    info.matrix_bytes = totals.bytes;
    info.matrix_type = totals.type;
    project_queries();
  }

  size_t max_nodes() const { return tower.max_nodes() + resampler.max_nodes(); }
  int64_t patch_count(const Image& slice) const {
    return slice.width / config.patch_size * (slice.height / config.patch_size);
  }
  void project_queries();
  void check_slice(const Image& slice) const;
  void set_position_inputs(const EncodeTensors& t, int64_t columns, int64_t rows);
  void set_inputs(const EncodeTensors& t, std::span<const Image* const> slices);
  void set_patches(const EncodeTensors& t, std::span<const Image* const> slices);
  void encode_batch(std::span<const Image* const> slices, std::span<float* const> out);
  EncodeTensors build(Graph& g, int64_t n, int64_t batch, Stage stage) const;

  std::shared_ptr<Device> device;
  std::shared_ptr<const GgufFile> file;
  VisionConfig config;
  Weights weights;
  VisionTower tower;
  Resampler resampler;
  std::shared_ptr<Executor> executor;
  GraphCache<EncodeTensors> graphs;
  size_t max_batch;
  VisionEncoderInfo info;

  // Below: guarded by executor->mutex(), kept from call to call so that nothing is allocated twice.
  std::vector<float> queries;    // projected, [embed_width, n_queries]
  std::vector<float> positions;  // of the grid below
  int64_t positions_columns = 0;
  int64_t positions_rows = 0;
  std::vector<int32_t> buckets;
  std::vector<float> patches;
  std::vector<float> unpadded;
};

void VisionEncoder::Impl::project_queries() {
  GraphCache<ggml_tensor*> once(executor, resampler.max_nodes(), 1);
  const std::lock_guard lock(executor->mutex());
  ggml_tensor* out =
      once.get({}, [&](Graph& g) { return g.output(resampler.build_queries(g.ctx()), "queries"); });
  once.run();
  queries.resize(static_cast<size_t>(config.embed_width * config.n_queries));
  executor->get<float>(out, queries);
}

void VisionEncoder::Impl::check_slice(const Image& slice) const {
  const auto patch = static_cast<int>(config.patch_size);
  require(slice.width >= patch && slice.height >= patch && slice.width % patch == 0 &&
              slice.height % patch == 0 && slice.width / patch <= kMaxGridSide &&
              slice.height / patch <= kMaxGridSide,
          ErrorCode::invalid_argument, "a slice of ", slice.width, "x", slice.height,
          " pixels: its sides must be 1 to ", kMaxGridSide, " patches of ", patch, " pixels");
  // Slices of the model's own making have about (scale_resolution / patch)^2 patches; four times as many are
  // still computed, beyond that the attention matrix grows out of hand.
  const int64_t side = config.scale_resolution / config.patch_size;
  const int64_t n = int64_t{slice.width / patch} * (slice.height / patch);
  require(n <= std::max<int64_t>(4 * side * side, kMaxGridSide), ErrorCode::invalid_argument, "a slice of ",
          slice.width, "x", slice.height, " pixels is larger than this model encodes; slice the image first");
}

EncodeTensors VisionEncoder::Impl::build(Graph& g, int64_t n, int64_t batch, Stage stage) const {
  EncodeTensors t;
  t.patches = g.input(GGML_TYPE_F32, {tower.patch_row(), n * batch}, "patches");
  t.buckets = g.input(GGML_TYPE_I32, {n}, "buckets");
  ggml_tensor* x = tower.build(g.ctx(), t.patches, t.buckets, stage.layers);
  if (stage.resampled) {
    t.positions = g.input(GGML_TYPE_F32, {config.embed_width, n}, "positions");
    t.queries = g.input(GGML_TYPE_F32, {config.embed_width, config.n_queries}, "queries");
    x = resampler.build_attention(g.ctx(), x, t.queries, t.positions);
    if (stage.projected) x = resampler.build_output(g.ctx(), x);
  }
  t.out = g.output(x, "out");
  return t;
}

void VisionEncoder::Impl::set_position_inputs(const EncodeTensors& t, int64_t columns, int64_t rows) {
  const auto side = static_cast<int>(config.table_side);
  const std::vector<int32_t> across = position_buckets(static_cast<int>(columns), side);
  const std::vector<int32_t> down = position_buckets(static_cast<int>(rows), side);
  buckets.clear();
  for (const int32_t row : down) {
    for (const int32_t column : across) buckets.push_back(row * side + column);
  }
  executor->set<int32_t>(t.buckets, buckets);
  if (t.positions == nullptr) return;
  if (columns != positions_columns || rows != positions_rows) {
    sincos_positions(config.embed_width, columns, rows, positions);
    positions_columns = columns;
    positions_rows = rows;
  }
  executor->set<float>(t.positions, positions);
}

void VisionEncoder::Impl::set_inputs(const EncodeTensors& t, std::span<const Image* const> slices) {
  set_patches(t, slices);
  set_position_inputs(t, slices.front()->width / config.patch_size,
                      slices.front()->height / config.patch_size);
  if (t.queries != nullptr) executor->set<float>(t.queries, queries);
}

void VisionEncoder::Impl::set_patches(const EncodeTensors& t, std::span<const Image* const> slices) {
  const auto row = static_cast<size_t>(config.patch_values());
  const auto padded = static_cast<size_t>(tower.patch_row());
  patches.assign(static_cast<size_t>(ggml_nelements(t.patches)), 0.0F);
  float* to = patches.data();
  for (const Image* slice : slices) {
    unpadded.resize(slice->rgb.size());
    normalize_patches(*slice, config.pixel_scale, static_cast<int>(config.patch_size), unpadded);
    for (size_t at = 0; at < unpadded.size(); at += row, to += padded) {
      std::copy_n(unpadded.data() + at, row, to);
    }
  }
  executor->set<float>(t.patches, patches);
}

// Slices of one shape; out[i] takes the embeddings of slices[i].
void VisionEncoder::Impl::encode_batch(std::span<const Image* const> slices, std::span<float* const> out) {
  const int64_t n = patch_count(*slices.front());
  const auto batch = static_cast<int64_t>(slices.size());
  const std::lock_guard lock(executor->mutex());
  // Grids of the same number of patches share a graph: their shape is in the inputs.
  const EncodeTensors& t = graphs.get({n, batch}, [&](Graph& g) { return build(g, n, batch, Stage{}); });
  set_inputs(t, slices);
  graphs.run();
  const auto values = static_cast<size_t>(config.embed_width * config.n_queries);
  for (size_t i = 0; i < slices.size(); ++i) {
    executor->get<float>(t.out, std::span(out[i], values), i * values);
  }
}

VisionEncoder::VisionEncoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
VisionEncoder::~VisionEncoder() = default;

std::shared_ptr<VisionEncoder> VisionEncoder::open(const std::string& path,
                                                   const VisionEncoderOptions& options) {
  auto impl = std::make_unique<Impl>(std::make_shared<const GgufFile>(path), options);
  log(LogLevel::info, str(path, ": vision encoder, ", impl->info.n_layers, " layers, ",
                          impl->info.parameters / 1000000, " M parameters on ", impl->device->name(), ", ",
                          impl->info.copied_bytes / 1000000, " MB converted or repacked"));
  return std::shared_ptr<VisionEncoder>(new VisionEncoder(std::move(impl)));
}

std::shared_ptr<VisionEncoder> VisionEncoder::synthetic(const SyntheticVisionEncoder& sizes,
                                                        const VisionEncoderOptions& options) {
  return std::shared_ptr<VisionEncoder>(
      new VisionEncoder(std::make_unique<Impl>(synthetic_vision_encoder(sizes), options)));
}

const VisionEncoderInfo& VisionEncoder::info() const {
  return impl_->info;
}
const PixelScale& VisionEncoder::pixel_scale() const {
  return impl_->config.pixel_scale;
}
std::string VisionEncoder::device_name() const {
  return impl_->device->name();
}

SliceOptions VisionEncoder::slice_options(int max_slice_nums) const {
  return {max_slice_nums, impl_->info.scale_resolution, impl_->info.patch_size};
}

size_t VisionEncoder::encode(const ImageView& image, int max_slice_nums, std::vector<float>& out) {
  const std::vector<Image> slices = slice_image(image, slice_options(max_slice_nums));
  out.resize(slices.size() * static_cast<size_t>(impl_->info.n_queries * impl_->info.embed_width));
  encode(slices, out);
  return slices.size();
}

void VisionEncoder::encode(std::span<const Image> slices, std::span<float> out) {
  const auto values = static_cast<size_t>(impl_->info.n_queries * impl_->info.embed_width);
  require(out.size() == slices.size() * values, ErrorCode::invalid_argument, "room for ", out.size(),
          " values, but ", slices.size(), " slices give ", slices.size() * values);
  for (const Image& slice : slices) impl_->check_slice(slice);
  std::vector<bool> done(slices.size());
  std::vector<const Image*> batch;
  std::vector<float*> targets;
  for (size_t first = 0; first < slices.size(); ++first) {
    if (done[first]) continue;
    batch.clear();
    targets.clear();
    for (size_t i = first; i < slices.size() && batch.size() < impl_->max_batch; ++i) {
      if (done[i] || slices[i].width != slices[first].width || slices[i].height != slices[first].height)
        continue;
      done[i] = true;
      batch.push_back(&slices[i]);
      targets.push_back(out.data() + i * values);
    }
    impl_->encode_batch(batch, targets);
  }
}

std::vector<float> VisionEncoder::inspect(const Image& slice, const std::string& stage) {
  Impl& m = *impl_;
  m.check_slice(slice);
  std::vector<float> out;
  if (stage == "positions") {
    sincos_positions(m.config.embed_width, slice.width / m.config.patch_size,
                     slice.height / m.config.patch_size, out);
    return out;
  }
  Stage until{-1, stage == "attention", false};
  if (stage == "embeddings") until.layers = 0;
  for (int64_t i = 0; i < m.config.n_layers; ++i) {
    if (stage == str("layer.", i)) until.layers = i + 1;
  }
  require(until.layers >= 0 || until.resampled || stage == "tower", ErrorCode::invalid_argument, "stage '",
          stage, "' is none of embeddings, layer.0 to layer.", m.config.n_layers - 1,
          ", tower, attention, positions");
  GraphCache<EncodeTensors> once(m.executor, m.max_nodes(), 1);
  const std::lock_guard lock(m.executor->mutex());
  const EncodeTensors& t = once.get({}, [&](Graph& g) { return m.build(g, m.patch_count(slice), 1, until); });
  const Image* const slices[] = {&slice};
  m.set_inputs(t, slices);
  once.run();
  out.resize(static_cast<size_t>(ggml_nelements(t.out)));
  m.executor->get<float>(t.out, std::span(out));
  return out;
}

}  // namespace omni
