// llm/kv_cache.h - the state of one sequence: keys, values and the graphs that use them.
#pragma once

#include "omni/language_model.h"

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/graph.h"
#include "llm/decoder.h"

namespace omni {

// "f32", "f16" or "q8_0"; throws Error(invalid_argument).
ggml_type parse_kv_type(const std::string& name);

struct KvCache::State {
  // `owner` keeps the decoder alive.
  State(std::shared_ptr<const void> owner, const Decoder& decoder, std::shared_ptr<Executor> executor,
        ggml_type type, int64_t capacity);

  // Where the rows of one pass go, and what they see. Rows are counted from the start of the sequence; where
  // `wraps` is set, row i lies at i % whole_rows() of the cache, over an older one.
  struct Place {
    int64_t row = 0;         // count of the first new row
    int64_t position = 0;    // position of the first new row; the others follow
    int64_t first_seen = 0;  // rows before this one are hidden
    bool wraps = false;
  };

  // Runs rows `input` [n, width] through the decoder and writes their keys and values. `wanted`, ascending,
  // are those whose logits are wanted; results are laid out as in ForwardResult. Changes neither length nor
  // written.
  void run(const Place& place, std::span<const float> input, std::span<const int32_t> wanted, Hidden hidden,
           std::span<float> hidden_out, std::span<float> logits_out);
  // Rows that the cache has in whole blocks: the capacity rounded up.
  int64_t whole_rows() const { return tensors.k.front()->ne[1] - 1; }

  // Moves `count` rows from `first` to `target`, in blocks, in the order that never overwrites an unread row,
  // and turns the key of the i-th of them by turn + i * stretch positions.
  void move(int64_t first, int64_t count, int64_t target, int64_t turn, int64_t stretch = 0);
  // Takes over the rows of a cache made with the same arguments.
  void copy_from(const State& other);
  std::vector<float> read(const ggml_tensor* tensor, int64_t first, int64_t count) const;

  std::shared_ptr<const void> owner;
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
