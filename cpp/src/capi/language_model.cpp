// capi/language_model.cpp - the C interface: language model and KV cache.
#include "omni/language_model.h"

#include "omni/omni.h"

#include <algorithm>
#include <memory>
#include <span>

#include "capi/guard.h"
#include "capi/handles.h"

using namespace omni::capi;
using omni::ErrorCode;
using omni::require;

struct omni_cache {
  std::unique_ptr<omni::KvCache> cache;
  omni::ForwardResult result;  // reused between calls
};

namespace {

template <typename Input>
omni_status decode(omni_model* model, omni_cache* cache, std::span<const Input> input, size_t count,
                   float* hidden, float* logits) noexcept {
  return guarded([&] {
    require_pointer(model, "model");
    require_pointer(cache, "cache");
    require(!input.empty(), ErrorCode::invalid_argument, "there is nothing to decode");
    const auto last = static_cast<int32_t>(count - 1);
    const std::span<const int32_t> rows(&last, logits != nullptr ? 1 : 0);
    model->model->forward(*cache->cache, input, rows,
                          hidden != nullptr ? omni::Hidden::all : omni::Hidden::rows, cache->result);
    if (hidden != nullptr) std::copy(cache->result.hidden.begin(), cache->result.hidden.end(), hidden);
    if (logits != nullptr) std::copy(cache->result.logits.begin(), cache->result.logits.end(), logits);
  });
}

}  // namespace

omni_model_params omni_model_default_params(void) {
  const omni::LanguageModelOptions d;
  return {d.n_ctx, d.n_batch, d.device.n_threads, d.device.poll, nullptr, "f16", "stored", d.repack ? 1 : 0};
}

omni_status omni_model_open(const char* path, const omni_model_params* params, omni_model** model) {
  return guarded([&] {
    require_pointer(path, "path");
    require_pointer(model, "model");
    const omni_model_params p = params != nullptr ? *params : omni_model_default_params();
    omni::LanguageModelOptions options;
    options.n_ctx = p.n_ctx;
    options.n_batch = p.n_batch;
    options.device = {text_or(p.device, ""), p.n_threads, p.poll};
    options.kv_type = text_or(p.kv_type, "f16");
    options.weight_format = text_or(p.weight_format, "stored");
    options.repack = p.repack != 0;
    *model = std::make_unique<omni_model>(omni_model{omni::LanguageModel::open(path, options)}).release();
  });
}

void omni_model_free(omni_model* model) {
  const std::unique_ptr<omni_model> owned(model);
}

int64_t omni_model_width(const omni_model* model) {
  return model == nullptr ? 0 : model->model->info().width;
}
int64_t omni_model_n_vocab(const omni_model* model) {
  return model == nullptr ? 0 : model->model->info().n_vocab;
}
int64_t omni_model_n_layers(const omni_model* model) {
  return model == nullptr ? 0 : model->model->info().n_layers;
}

omni_status omni_model_embed(const omni_model* model, const int32_t* ids, size_t count, float* out) {
  return guarded([&] {
    require_pointer(model, "model");
    require_pointer(ids, "ids");
    require_pointer(out, "out");
    model->model->embed({ids, count}, {out, count * static_cast<size_t>(model->model->info().width)});
  });
}

omni_status omni_cache_new(omni_model* model, int64_t n_ctx, omni_cache** cache) {
  return guarded([&] {
    require_pointer(model, "model");
    require_pointer(cache, "cache");
    *cache = std::make_unique<omni_cache>(omni_cache{model->model->new_cache(n_ctx), {}}).release();
  });
}

void omni_cache_free(omni_cache* cache) {
  const std::unique_ptr<omni_cache> owned(cache);
}

int64_t omni_cache_length(const omni_cache* cache) {
  return cache == nullptr ? 0 : cache->cache->length();
}

omni_status omni_cache_truncate(omni_cache* cache, int64_t length) {
  return guarded([&] {
    require_pointer(cache, "cache");
    cache->cache->truncate(length);
  });
}

omni_status omni_cache_remove(omni_cache* cache, int64_t first, int64_t count) {
  return guarded([&] {
    require_pointer(cache, "cache");
    cache->cache->remove(first, count);
  });
}

omni_status omni_decode(omni_model* model, omni_cache* cache, const int32_t* ids, size_t count, float* hidden,
                        float* logits) {
  return decode(model, cache, std::span<const int32_t>(ids, ids != nullptr ? count : 0), count, hidden,
                logits);
}

omni_status omni_decode_embeds(omni_model* model, omni_cache* cache, const float* embeds, size_t count,
                               float* hidden, float* logits) {
  const auto width = static_cast<size_t>(omni_model_width(model));
  return decode(model, cache, std::span<const float>(embeds, embeds != nullptr ? count * width : 0), count,
                hidden, logits);
}
