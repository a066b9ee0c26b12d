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

  int64_t position() const { return position_ + waiting_rows(); }  // of the next row
  int64_t n_seen() const { return next_row_ - first_seen(); }      // computed rows that the next one will see
  bool empty() const { return position() == 0 && current_.empty(); }

 private:
  int64_t waiting_rows() const { return rows_of(waiting_); }
  int64_t rows_of(const std::vector<float>& values) const {
    return static_cast<int64_t>(values.size()) / decoder_.config().width;
  }
  int64_t first_seen() const;
  void restart_with_previous();
  void keep_first_and_previous();
  void make_room();

  const Decoder& decoder_;
  SpeechAttention attention_;
  int64_t sliding_rows_;
  KvCache::State cache_;

  int64_t next_row_ = 0;         // rows of the cache in use; counts on where it wraps
  int64_t position_ = 0;         // of the first waiting row
  int64_t first_block_ = 0;      // rows of the turn's first block
  bool first_done_ = false;      // the current block is not the first
  std::vector<float> waiting_;   // [n, width], pushed and not computed
  std::vector<float> current_;   // [n, width], the whole current block
  std::vector<float> previous_;  // [n, width], the whole block before
};

}  // namespace omni
