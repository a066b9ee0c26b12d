// llm/language_model.cpp - loading, and forward passes split into batches.
#include "omni/language_model.h"

#include "omni/error.h"
#include "omni/log.h"

#include <algorithm>
#include <cmath>

#include "base/row_table.h"
#include "llm/decoder.h"
#include "llm/kv_cache.h"
#include "llm/synthetic.h"

namespace omni {
namespace {

const LanguageModelOptions& checked(const LanguageModelOptions& options) {
  require(options.n_ctx >= 1, ErrorCode::invalid_argument, "n_ctx is ", options.n_ctx,
          ", it must be at least 1");
  require(options.n_batch >= 1 && options.n_batch <= 65536, ErrorCode::invalid_argument, "n_batch is ",
          options.n_batch, ", it must be 1 to 65536");
  return options;
}

}  // namespace

struct LanguageModel::Impl {
  Impl(std::shared_ptr<const GgufFile> file_, const LanguageModelOptions& options_)
      : options(checked(options_)),
        kv_type(parse_kv_type(options.kv_type)),
        device(std::make_shared<Device>(options.device)),
        file(std::move(file_)),
        config(DecoderConfig::read(*file, "qwen3", "language model")),
        embedding(file, "token_embd.weight", config.width),
        decoder(file, device, config, policy(), [this](Weights& w) { return load_output(w); }),
        executor(std::make_shared<Executor>(device)) {
    const DecoderConfig& c = config;
    info.architecture = c.architecture;
    info.n_layers = c.n_layers;
    info.width = c.width;
    info.n_vocab = embedding.n_rows();
    info.n_heads = c.n_heads;
    info.n_kv_heads = c.n_kv_heads;
    info.head_dim = c.head_dim;
    info.ffn_width = c.ffn_width;
    info.n_ctx_train = c.n_ctx_train;
    for (const GgufTensor& t : file->tensors()) info.parameters += static_cast<uint64_t>(t.elements());
    info.file_bytes = file->file_size();
    info.copied_bytes = decoder.weights().copied_bytes();
    const MatrixTotals matrices = decoder.matrices();
    info.matrix_parameters = matrices.parameters;
    info.matrix_bytes = matrices.bytes;
    info.matrix_type = matrices.type;
    require(options.n_ctx <= c.n_ctx_train, ErrorCode::invalid_argument, file->path(), ": n_ctx is ",
            options.n_ctx, ", the model was made for at most ", c.n_ctx_train);
  }

  LinearPolicy policy() const { return {parse_weight_format(options.weight_format), options.repack}; }
  // Models with tied embeddings have no output matrix of their own.
  ggml_tensor* load_output(Weights& w) const {
    const char* name = w.has("output.weight") ? "output.weight" : "token_embd.weight";
    return load_matrix(w, name, config.width, embedding.n_rows(), policy());
  }

  LanguageModelOptions options;
  ggml_type kv_type;
  std::shared_ptr<Device> device;
  std::shared_ptr<const GgufFile> file;
  DecoderConfig config;
  RowTable embedding;
  Decoder decoder;
  std::shared_ptr<Executor> executor;
  LanguageModelInfo info;
};

LanguageModel::LanguageModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LanguageModel::~LanguageModel() = default;

std::shared_ptr<LanguageModel> LanguageModel::open(const std::string& path,
                                                   const LanguageModelOptions& options) {
  auto impl = std::make_unique<Impl>(std::make_shared<const GgufFile>(path), options);
  log(LogLevel::info, str(path, ": ", impl->info.architecture, ", ", impl->info.n_layers, " layers, ",
                          impl->info.parameters / 1000000, " M parameters on ", impl->device->name(), ", ",
                          impl->info.copied_bytes / 1000000, " MB converted or repacked"));
  return std::shared_ptr<LanguageModel>(new LanguageModel(std::move(impl)));
}

std::shared_ptr<LanguageModel> LanguageModel::synthetic(const SyntheticLanguageModel& sizes,
                                                        const LanguageModelOptions& options) {
  return std::shared_ptr<LanguageModel>(
      new LanguageModel(std::make_unique<Impl>(synthetic_language_model(sizes), options)));
}

const LanguageModelInfo& LanguageModel::info() const {
  return impl_->info;
}
const LanguageModelOptions& LanguageModel::options() const {
  return impl_->options;
}
std::string LanguageModel::device_name() const {
  return impl_->device->name();
}

void LanguageModel::embed(std::span<const int32_t> ids, std::span<float> out) const {
  impl_->embedding.read(ids, out);
}

std::unique_ptr<KvCache> LanguageModel::new_cache(int64_t n_ctx) {
  const int64_t capacity = n_ctx == 0 ? impl_->options.n_ctx : n_ctx;
  require(capacity >= 1 && capacity <= impl_->info.n_ctx_train, ErrorCode::invalid_argument, "a cache of ",
          n_ctx, " positions: the model was made for 1 to ", impl_->info.n_ctx_train);
  return std::unique_ptr<KvCache>(new KvCache(std::make_unique<KvCache::State>(
      shared_from_this(), impl_->decoder, impl_->executor, impl_->kv_type, capacity)));
}

void LanguageModel::forward(KvCache& cache, std::span<const int32_t> ids, std::span<const int32_t> rows,
                            Hidden hidden, ForwardResult& result) {
  std::vector<float>& embeds = cache.state_->embeds;
  embeds.resize(ids.size() * static_cast<size_t>(impl_->info.width));
  embed(ids, embeds);
  forward(cache, std::span<const float>(embeds), rows, hidden, result);
}

void LanguageModel::forward(KvCache& cache, std::span<const float> embeds, std::span<const int32_t> rows,
                            Hidden hidden, ForwardResult& result) {
  KvCache::State& s = *cache.state_;
  const auto width = static_cast<size_t>(impl_->info.width);
  const auto n_vocab = static_cast<size_t>(impl_->info.n_vocab);
  require(s.owner.get() == this, ErrorCode::invalid_argument, "the cache belongs to another model");
  require(!embeds.empty() && embeds.size() % width == 0, ErrorCode::invalid_argument,
          "embeddings must be [n, ", width, "] with n at least 1, got ", embeds.size(), " values");
  const auto finite = [](float v) { return std::isfinite(v); };
  require(std::all_of(embeds.begin(), embeds.end(), finite), ErrorCode::invalid_argument,
          "the embeddings hold NaN or infinite values");
  const size_t n = embeds.size() / width;
  require(static_cast<int64_t>(n) <= s.capacity - s.length, ErrorCode::context_full,
          "the context is full: ", s.length, " of ", s.capacity, " positions are used and ", n,
          " more are needed; use a larger n_ctx, or remove earlier rows");
  for (size_t i = 0; i < rows.size(); ++i) {
    require(rows[i] >= 0 && static_cast<size_t>(rows[i]) < n && (i == 0 || rows[i] > rows[i - 1]),
            ErrorCode::invalid_argument, "logit rows must ascend within [0, ", n, ")");
  }
  result.hidden.resize((hidden == Hidden::all ? n : rows.size()) * width);
  result.logits.resize(rows.size() * n_vocab);

  const int64_t before = s.length;
  const int64_t written = s.written;
  const auto batch = static_cast<size_t>(impl_->options.n_batch);
  size_t rows_done = 0;
  try {
    for (size_t start = 0; start < n; start += batch) {
      const size_t count = std::min(batch, n - start);
      s.rows.clear();
      while (rows_done + s.rows.size() < rows.size() &&
             static_cast<size_t>(rows[rows_done + s.rows.size()]) < start + count) {
        s.rows.push_back(rows[rows_done + s.rows.size()] - static_cast<int32_t>(start));
      }
      const size_t hidden_first = hidden == Hidden::all ? start : rows_done;
      const size_t hidden_count = hidden == Hidden::all ? count : s.rows.size();
      s.run({.row = s.length, .position = s.length}, embeds.subspan(start * width, count * width), s.rows,
            hidden, std::span(result.hidden).subspan(hidden_first * width, hidden_count * width),
            std::span(result.logits).subspan(rows_done * n_vocab, s.rows.size() * n_vocab));
      s.length += static_cast<int64_t>(count);
      s.written = std::max(s.written, s.length);
      rows_done += s.rows.size();
    }
  } catch (...) {
    s.length = before;
    s.written = written;
    throw;
  }
}

}  // namespace omni
