// capi/text.cpp - the C interface: tokenizer and sampler.
#include "omni/omni.h"
#include "omni/sampler.h"
#include "omni/tokenizer.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "capi/guard.h"
#include "capi/handles.h"

using namespace omni::capi;

struct omni_sampler {
  omni::ChatSampler sampler;
  size_t n_vocab;
};

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
    require_array(text, text_bytes, "text");
    require_array(ids, capacity, "ids");
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
    require_array(ids, count, "ids");
    require_array(text, capacity, "text");
    const std::string all = tokenizer->tokenizer.decode({ids, count}, skip_special != 0);
    std::copy_n(all.begin(), std::min(capacity, all.size()), text);
    *bytes = all.size();
  });
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
