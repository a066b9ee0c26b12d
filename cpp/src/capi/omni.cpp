// capi/omni.cpp - the C interface. Exceptions become status codes here and nowhere else.
#include "omni/omni.h"

#include "omni/devices.h"
#include "omni/error.h"
#include "omni/language_model.h"
#include "omni/log.h"
#include "omni/sampler.h"
#include "omni/tokenizer.h"

#include <algorithm>
#include <memory>
#include <new>
#include <span>
#include <string>

struct omni_tokenizer {
  omni::Tokenizer tokenizer;
};
struct omni_model {
  std::shared_ptr<omni::LanguageModel> model;
};
struct omni_cache {
  std::unique_ptr<omni::KvCache> cache;
  omni::ForwardResult result;  // reused between calls
};
struct omni_sampler {
  omni::ChatSampler sampler;
  size_t n_vocab;
};

namespace {

using omni::ErrorCode;
using omni::require;

std::string& last_error() {
  thread_local std::string message;
  return message;
}

omni_status failed(omni_status status, const char* message) noexcept {
  try {
    last_error() = message;
  } catch (...) {
    last_error().clear();  // no memory even for the message
  }
  return status;
}

// Runs `body` and turns what it throws into a status.
template <typename Body>
omni_status guarded(const Body& body) noexcept {
  try {
    body();
    return OMNI_OK;
  } catch (const omni::Error& e) {
    return failed(static_cast<omni_status>(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return failed(OMNI_OUT_OF_MEMORY, "not enough memory; use a smaller quantisation, context or batch");
  } catch (const std::exception& e) {
    return failed(OMNI_INTERNAL, e.what());
  } catch (...) {
    return failed(OMNI_INTERNAL, "an unknown exception");
  }
}

void require_pointer(const void* pointer, const char* name) {
  require(pointer != nullptr, ErrorCode::invalid_argument, name, " is NULL");
}

std::string text_or(const char* text, const char* fallback) {
  return text != nullptr ? text : fallback;
}

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

const char* omni_version(void) {
  return OMNI_VERSION;
}

const char* omni_status_name(omni_status status) {
  switch (status) {
    case OMNI_OK:
      return "ok";
    case OMNI_INVALID_ARGUMENT:
      return "invalid argument";
    case OMNI_FILE:
      return "file error";
    case OMNI_FORMAT:
      return "format error";
    case OMNI_UNSUPPORTED:
      return "unsupported";
    case OMNI_CONTEXT_FULL:
      return "context full";
    case OMNI_OUT_OF_MEMORY:
      return "out of memory";
    case OMNI_DEVICE:
      return "device error";
    case OMNI_CANCELLED:
      return "cancelled";
    case OMNI_INTERNAL:
      return "internal error";
  }
  return "unknown status";
}

const char* omni_last_error(void) {
  return last_error().c_str();
}

void omni_set_log(omni_log_callback callback, omni_log_level minimum, void* user) {
  guarded([&] {
    omni::LogSink sink;
    if (callback != nullptr) {
      sink = [callback, user](omni::LogLevel level, const std::string& message) {
        callback(static_cast<omni_log_level>(level), message.c_str(), user);
      };
    }
    omni::set_log_sink(std::move(sink), static_cast<omni::LogLevel>(minimum));
  });
}

size_t omni_device_count(void) {
  size_t count = 0;
  guarded([&] { count = omni::list_devices().size(); });
  return count;
}

omni_status omni_device_get(size_t index, omni_device_info* info) {
  return guarded([&] {
    require_pointer(info, "info");
    thread_local omni::DeviceInfo device;
    const std::vector<omni::DeviceInfo> devices = omni::list_devices();
    require(index < devices.size(), ErrorCode::invalid_argument, "there is no device ", index);
    device = devices[index];
    *info = {device.name.c_str(), device.description.c_str(), device.kind.c_str(), device.memory_free,
             device.memory_total};
  });
}

omni_status omni_tokenizer_open(const char* path, omni_tokenizer** tokenizer) {
  return guarded([&] {
    require_pointer(path, "path");
    require_pointer(tokenizer, "tokenizer");
    *tokenizer =
        std::make_unique<omni_tokenizer>(omni_tokenizer{omni::Tokenizer(std::string(path))}).release();
  });
}

void omni_tokenizer_free(omni_tokenizer* tokenizer) {
  const std::unique_ptr<omni_tokenizer> owned(tokenizer);
}

int32_t omni_tokenizer_size(const omni_tokenizer* tokenizer) {
  return tokenizer == nullptr ? 0 : tokenizer->tokenizer.size();
}

int32_t omni_tokenizer_find(const omni_tokenizer* tokenizer, const char* text) {
  int32_t id = -1;
  guarded([&] {
    require_pointer(tokenizer, "tokenizer");
    require_pointer(text, "text");
    id = tokenizer->tokenizer.id_of(text).value_or(-1);
  });
  return id;
}

omni_status omni_tokenize(const omni_tokenizer* tokenizer, const char* text, size_t text_bytes, int32_t* ids,
                          size_t capacity, size_t* count) {
  return guarded([&] {
    require_pointer(tokenizer, "tokenizer");
    require_pointer(count, "count");
    require(text != nullptr || text_bytes == 0, ErrorCode::invalid_argument, "text is NULL");
    require(ids != nullptr || capacity == 0, ErrorCode::invalid_argument, "ids is NULL");
    const std::vector<int32_t> all = tokenizer->tokenizer.encode({text, text_bytes});
    std::copy_n(all.begin(), std::min(capacity, all.size()), ids);
    *count = all.size();
  });
}

omni_status omni_detokenize(const omni_tokenizer* tokenizer, const int32_t* ids, size_t count,
                            int skip_special, char* text, size_t capacity, size_t* bytes) {
  return guarded([&] {
    require_pointer(tokenizer, "tokenizer");
    require_pointer(bytes, "bytes");
    require(ids != nullptr || count == 0, ErrorCode::invalid_argument, "ids is NULL");
    require(text != nullptr || capacity == 0, ErrorCode::invalid_argument, "text is NULL");
    const std::string all = tokenizer->tokenizer.decode({ids, count}, skip_special != 0);
    std::copy_n(all.begin(), std::min(capacity, all.size()), text);
    *bytes = all.size();
  });
}

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

omni_sampler_params omni_sampler_default_params(void) {
  const omni::ChatSamplerOptions d;
  return {d.greedy ? 1 : 0, d.temperature, d.top_k, d.top_p, d.repetition_penalty, d.seed};
}

omni_status omni_sampler_new(int32_t n_vocab, const omni_sampler_params* params, omni_sampler** sampler) {
  return guarded([&] {
    require_pointer(sampler, "sampler");
    const omni_sampler_params p = params != nullptr ? *params : omni_sampler_default_params();
    omni::ChatSamplerOptions options;
    options.greedy = p.greedy != 0;
    options.temperature = p.temperature;
    options.top_k = p.top_k;
    options.top_p = p.top_p;
    options.repetition_penalty = p.repetition_penalty;
    options.seed = p.seed;
    *sampler = std::make_unique<omni_sampler>(
                   omni_sampler{omni::ChatSampler(n_vocab, {}, options), static_cast<size_t>(n_vocab)})
                   .release();
  });
}

void omni_sampler_free(omni_sampler* sampler) {
  const std::unique_ptr<omni_sampler> owned(sampler);
}

omni_status omni_sample(omni_sampler* sampler, const float* logits, int32_t* id) {
  return guarded([&] {
    require_pointer(sampler, "sampler");
    require_pointer(logits, "logits");
    require_pointer(id, "id");
    *id = sampler->sampler.sample({logits, sampler->n_vocab});
  });
}
