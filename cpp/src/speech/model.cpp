// speech/model.cpp - opening the speech model's files, and what needs no stream.
#include "speech/model.h"

#include "omni/error.h"
#include "omni/log.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/linear.h"
#include "llm/kv_cache.h"
#include "speech/synthetic.h"

namespace omni {
namespace {

constexpr int64_t kMostPositions = 1 << 20;

const SpeechModelOptions& checked(const SpeechModelOptions& options) {
  require(options.n_ctx >= 64 && options.n_ctx <= kMostPositions, ErrorCode::invalid_argument, "n_ctx is ",
          options.n_ctx, ", it must be 64 to ", kMostPositions);
  return options;
}

// The two files hold the same numbers; other ones mean that the projector is another model's.
void compare_projectors(const GgufFile& speech, const GgufFile& projector) {
  for (const char* name : {"linear1.bias", "linear2.bias"}) {
    const GgufTensor* a = speech.find_tensor(str("projector_semantic.", name));
    const GgufTensor& b = projector.tensor(name);
    if (a == nullptr || a->type != GGML_TYPE_F32 || b.type != GGML_TYPE_F32 || a->size != b.size) continue;
    require(std::equal(a->data, a->data + a->size, b.data), ErrorCode::format, projector.path(),
            ": the projector's numbers differ from those in ", speech.path(),
            "; take both files from the same model");
  }
}

}  // namespace

SpeechModel::Impl::Impl(std::shared_ptr<const GgufFile> file_, std::shared_ptr<const GgufFile> projector_file,
                        const SpeechModelOptions& options_)
    : options(checked(options_)),
      kv_type(parse_kv_type(options.kv_type)),
      device(std::make_shared<Device>(options.device)),
      file(std::move(file_)),
      config(DecoderConfig::read(*file, "llama", "speech model")),
      text(file, "emb_text.weight", config.width),
      codes(file, "emb_code.0.weight", config.width),
      decoder(file, device, config, policy(), [this](Weights& w) { return load_head(w); }),
      executor(std::make_shared<Executor>(device)) {
  if (projector_file != nullptr) {
    compare_projectors(*file, *projector_file);
    projector = std::make_unique<Projector>(std::move(projector_file), "", config.width, executor, policy());
  } else {
    projector = std::make_unique<Projector>(file, "projector_semantic.", config.width, executor, policy());
  }
  info.n_layers = config.n_layers;
  info.width = config.width;
  info.llm_width = projector->input_width();
  info.n_heads = config.n_heads;
  info.head_dim = config.head_dim;
  info.ffn_width = config.ffn_width;
  info.n_text = text.n_rows();
  info.n_codes = codes.n_rows();
  info.end_of_speech = static_cast<int32_t>(info.n_codes) - 1;
  // The published ids; the official files have no keys for them.
  const auto special = [&](const char* key, uint32_t published) {
    const uint32_t id = file->u32(key, published);
    require(id < info.n_text, ErrorCode::format, file->path(), ": row ", id, " of emb_text has a meaning (",
            key, "), but there are only ", info.n_text);
    return static_cast<int32_t>(id);
  };
  info.audio_bos = special("omni.audio_bos_token_id", 151687);
  info.text_eos = special("omni.text_eos_token_id", 151692);
  for (const GgufTensor& t : file->tensors()) info.parameters += static_cast<uint64_t>(t.elements());
  const MatrixTotals matrices = decoder.matrices();
  info.matrix_parameters = matrices.parameters;
  info.matrix_bytes = matrices.bytes;
  info.matrix_type = matrices.type;
  info.copied_bytes = decoder.weights().copied_bytes() + projector->copied_bytes();
}

LinearPolicy SpeechModel::Impl::policy() const {
  return {parse_weight_format(options.weight_format), options.repack};
}

// The official file holds the matrix transposed; which way it lies is told by its shape.
ggml_tensor* SpeechModel::Impl::load_head(Weights& weights) const {
  const std::string name = "head_code.0.weight";
  const GgufTensor& stored = file->tensor(name);
  const int64_t width = config.width;
  const int64_t n_codes = codes.n_rows();
  require(n_codes >= 2, ErrorCode::format, file->path(), ": there are only ", n_codes, " speech tokens");
  if (stored.n_dims == 2 && stored.ne[0] == width && stored.ne[1] == n_codes) {
    return load_matrix(weights, name, width, n_codes, policy());
  }
  require(stored.n_dims == 2 && stored.ne[0] == n_codes && stored.ne[1] == width, ErrorCode::format,
          file->path(), ": tensor '", name, "' has shape ", shape_text(stored.ne), ", expected [", width,
          ", ", n_codes, "] or [", n_codes, ", ", width, "]");
  const RowTable rows(file, name, n_codes);
  const auto transpose = [rows, width, n_codes](float* out) {
    std::vector<float> row(static_cast<size_t>(n_codes));
    for (int64_t h = 0; h < width; ++h) {
      rows.read(static_cast<int32_t>(h), row);
      for (int64_t c = 0; c < n_codes; ++c) out[c * width + h] = row[static_cast<size_t>(c)];
    }
  };
  return load_computed_matrix(weights, name, width, n_codes, stored.type, transpose, policy());
}

void SpeechModel::Impl::check(std::span<const int32_t> ids, std::span<const float> hidden) const {
  for (const int32_t id : ids) {
    require(id >= 0 && id < info.n_text, ErrorCode::invalid_argument, "text token id ", id,
            " is unknown to the speech model, which has ", info.n_text);
  }
  const size_t wanted = ids.size() * static_cast<size_t>(info.llm_width);
  require(hidden.size() == wanted, ErrorCode::invalid_argument, "hidden states must be [", ids.size(), ", ",
          info.llm_width, "], one for each id; got ", hidden.size(), " values");
  require(std::ranges::all_of(hidden, [](float v) { return std::isfinite(v); }), ErrorCode::invalid_argument,
          "the hidden states hold NaN or infinite values");
}

void SpeechModel::Impl::check_rows(std::span<const float> rows) const {
  require(rows.size() % static_cast<size_t>(info.width) == 0, ErrorCode::invalid_argument,
          "rows must be [n, ", info.width, "], got ", rows.size(), " values");
  require(std::ranges::all_of(rows, [](float v) { return std::isfinite(v); }), ErrorCode::invalid_argument,
          "the rows hold NaN or infinite values");
}

SpeechModel::SpeechModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SpeechModel::~SpeechModel() = default;

std::shared_ptr<SpeechModel> SpeechModel::open(const std::string& speech, const std::string& projector,
                                               const SpeechModelOptions& options) {
  auto file = std::make_shared<const GgufFile>(speech);
  auto second = projector.empty() ? nullptr : std::make_shared<const GgufFile>(projector);
  auto impl = std::make_unique<Impl>(std::move(file), std::move(second), options);
  log(LogLevel::info, str(speech, ": speech model, ", impl->info.n_layers, " layers, ",
                          impl->info.n_codes - 1, " speech tokens on ", impl->device->name(), ", ",
                          impl->info.copied_bytes / 1000000, " MB converted or repacked"));
  return std::shared_ptr<SpeechModel>(new SpeechModel(std::move(impl)));
}

std::shared_ptr<SpeechModel> SpeechModel::synthetic(const SyntheticSpeechModel& sizes,
                                                    const SpeechModelOptions& options) {
  return std::shared_ptr<SpeechModel>(
      new SpeechModel(std::make_unique<Impl>(synthetic_speech_model(sizes), nullptr, options)));
}

const SpeechModelInfo& SpeechModel::info() const {
  return impl_->info;
}
const SpeechModelOptions& SpeechModel::options() const {
  return impl_->options;
}
std::string SpeechModel::device_name() const {
  return impl_->device->name();
}

void SpeechModel::condition(std::span<const int32_t> ids, std::span<const float> hidden,
                            std::span<float> out) const {
  impl_->text.read(ids, out);
  if (hidden.empty()) return;
  impl_->check(ids, hidden);
  impl_->projector->add(hidden, out);
}

void SpeechModel::embed(std::span<const int32_t> ids, std::span<float> out) const {
  impl_->codes.read(ids, out);
}

void SpeechModel::evaluate(std::span<const float> rows, std::span<float> hidden,
                           std::span<float> logits) const {
  const auto width = static_cast<size_t>(impl_->info.width);
  const size_t n = rows.size() / width;
  impl_->check_rows(rows);
  require(n > 0 && n <= static_cast<size_t>(impl_->options.n_ctx), ErrorCode::invalid_argument, n,
          " rows, they must be 1 to ", impl_->options.n_ctx);
  require(hidden.size() == rows.size() && logits.size() == n * static_cast<size_t>(impl_->info.n_codes),
          ErrorCode::invalid_argument, "the outputs must hold [", n, ", ", width, "] and [", n, ", ",
          impl_->info.n_codes, "]");
  KvCache::State cache(shared_from_this(), impl_->decoder, impl_->executor, impl_->kv_type,
                       static_cast<int64_t>(n));
  std::vector<int32_t> wanted(n);
  std::iota(wanted.begin(), wanted.end(), 0);
  cache.run({}, rows, wanted, Hidden::rows, hidden, logits);
}

}  // namespace omni
