// speech/window.h - what the speech model still sees: the rows of a turn, block by block, in its KV cache.
#pragma once

#include "omni/speech.h"

#include <memory>
#include <span>
#include <vector>

#include "llm/kv_cache.h"

namespace omni {

// A block is the conditions of some text and the speech tokens that follow. Rows are pushed, then computed
// together. When the cache is full, it starts anew with the previous block and the current one.
class SpeechWindow {
 public:
  // `owner` keeps the decoder alive. `n_ctx`: rows of the cache.
  SpeechWindow(std::shared_ptr<const void> owner, const Decoder& decoder, std::shared_ptr<Executor> executor,
               ggml_type kv_type, int64_t n_ctx, SpeechAttention attention, int64_t sliding_rows);

  void begin_block();
  // Appends rows [n, width] to the block.
  void push(std::span<const float> rows);
  // Computes the rows that wait: logits [n_codes] of the last one. Throws Error(context_full).
  void compute(std::span<float> logits);
  // The rows that wait will never be computed, but their positions are used up.
  void skip_waiting();
  void reset();
  // Takes over the state of a window made with the same arguments.
  void copy_from(const SpeechWindow& other);

  int64_t position() const { return turn_.position + waiting_rows(); }  // of the next row
  int64_t n_seen() const {
    return turn_.next_row - first_seen();
  }  // computed rows that the next one will see
  bool empty() const { return position() == 0 && turn_.current.empty(); }

 private:
  int64_t waiting_rows() const { return rows_of(turn_.waiting); }
  int64_t rows_of(const std::vector<float>& values) const {
    return static_cast<int64_t>(values.size()) / decoder_.config().width;
  }
  int64_t first_seen() const;
  void restart_with_previous();
  void keep_first_and_previous();
  void make_room();

  // What a turn changes beside the cache's rows.
  struct Turn {
    int64_t next_row = 0;         // rows of the cache in use; counts on where it wraps
    int64_t position = 0;         // of the first waiting row
    int64_t first_block = 0;      // rows of the turn's first block
    bool first_done = false;      // the current block is not the first
    std::vector<float> waiting;   // [n, width], pushed and not computed
    std::vector<float> current;   // [n, width], the whole current block
    std::vector<float> previous;  // [n, width], the whole block before
  };

  const Decoder& decoder_;
  SpeechAttention attention_;
  int64_t sliding_rows_;
  KvCache::State cache_;
  Turn turn_;
};

}  // namespace omni
