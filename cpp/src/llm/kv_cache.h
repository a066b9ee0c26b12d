// llm/kv_cache.h - the state of one conversation: keys, values and the graphs that use them.
#pragma once

#include "omni/language_model.h"

#include <memory>

#include "base/graph.h"
#include "llm/decoder.h"

namespace omni {

struct KvCache::State {
  State(std::shared_ptr<const LanguageModel> model, const Decoder& decoder,
        std::shared_ptr<Executor> executor, ggml_type type, int64_t capacity);

  // Moves `count` rows from `first` to `target`, in blocks, in the order that never overwrites an unread row.
  void move(int64_t first, int64_t count, int64_t target);
  std::vector<float> read(const ggml_tensor* tensor, int64_t first, int64_t count) const;

  std::shared_ptr<const LanguageModel> model;  // keeps the decoder alive
  const Decoder& decoder;
  std::shared_ptr<Executor> executor;
  ggml_type type;
  int64_t capacity;
  int64_t length = 0;
  int64_t written = 0;  // rows that hold something; extend() may go up to here

  ContextPtr context;
  BufferPtr buffer;
  KvTensors tensors;
  GraphCache<DecoderTensors> graphs;
  GraphCache<MoveTensors> moves;

  // Reused between passes, so that the steady state allocates nothing.
  std::vector<float> embeds;
  std::vector<int32_t> positions;
  std::vector<int64_t> cache_rows;
  std::vector<int32_t> rows;
  std::vector<ggml_fp16_t> mask;
};

}  // namespace omni
