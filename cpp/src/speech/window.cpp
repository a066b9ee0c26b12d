// speech/window.cpp - computing blocks, and the rules for leaving old ones behind.
#include "speech/window.h"

#include "omni/error.h"
#include "omni/log.h"

#include <algorithm>

namespace omni {
namespace {

constexpr int64_t kBatch = 256;        // rows computed at once
constexpr int64_t kMostTogether = 64;  // beyond a sliding window: the longest run of rows computed together

}  // namespace

SpeechWindow::SpeechWindow(std::shared_ptr<const void> owner, const Decoder& decoder,
                           std::shared_ptr<Executor> executor, ggml_type kv_type, int64_t n_ctx,
                           SpeechAttention attention, int64_t sliding_rows)
    : decoder_(decoder),
      attention_(attention),
      sliding_rows_(sliding_rows),
      cache_(std::move(owner), decoder, std::move(executor), kv_type,
             attention == SpeechAttention::sliding_window ? sliding_rows + kMostTogether : n_ctx) {}

void SpeechWindow::reset() {
  turn_.next_row = 0;
  turn_.position = 0;
  turn_.first_block = 0;
  turn_.first_done = false;
  turn_.waiting.clear();
  turn_.current.clear();
  turn_.previous.clear();
}

void SpeechWindow::copy_from(const SpeechWindow& other) {
  cache_.copy_from(other.cache_);
  turn_ = other.turn_;
}

int64_t SpeechWindow::first_seen() const {
  // Whatever is computed together sees the same rows.
  return attention_ == SpeechAttention::sliding_window ? std::max<int64_t>(0, turn_.next_row - sliding_rows_)
                                                       : 0;
}

void SpeechWindow::begin_block() {
  if (turn_.current.empty()) return;
  if (!turn_.first_done) turn_.first_block = rows_of(turn_.current);
  turn_.first_done = true;
  std::swap(turn_.previous, turn_.current);
  turn_.current.clear();
  if (attention_ == SpeechAttention::sliding_recompute) restart_with_previous();
  if (attention_ == SpeechAttention::reindex) keep_first_and_previous();
}

void SpeechWindow::push(std::span<const float> rows) {
  turn_.waiting.insert(turn_.waiting.end(), rows.begin(), rows.end());
  turn_.current.insert(turn_.current.end(), rows.begin(), rows.end());
}

void SpeechWindow::skip_waiting() {
  turn_.position += waiting_rows();
  turn_.waiting.clear();
}

void SpeechWindow::restart_with_previous() {
  turn_.next_row = 0;
  turn_.position = 0;
  turn_.waiting = turn_.previous;
}

void SpeechWindow::keep_first_and_previous() {
  const int64_t kept = rows_of(turn_.previous);
  if (turn_.next_row <= turn_.first_block + kept) return;
  const int64_t first = turn_.next_row - kept;
  // The reference turns each further key by one position more, so that the kept block ends up stretched to
  // twice its length. Checkpoints that ask for this attention were run so.
  cache_.move(first, kept, turn_.first_block, turn_.first_block - first, 1);
  turn_.next_row = turn_.first_block + kept;
  turn_.position = turn_.next_row;
}

void SpeechWindow::make_room() {
  const int64_t capacity = cache_.whole_rows();
  if (attention_ == SpeechAttention::sliding_window) return;  // old rows are written over
  if (turn_.next_row + waiting_rows() <= capacity) return;
  const bool with_previous = rows_of(turn_.previous) + rows_of(turn_.current) <= capacity;
  const int64_t needed = rows_of(turn_.current) + (with_previous ? rows_of(turn_.previous) : 0);
  require(needed <= capacity, ErrorCode::context_full, "the speech model's context of ", capacity,
          " positions can't hold a block of ", needed, "; use a larger n_ctx, or speak the text in parts");
  log(LogLevel::warning, str("the speech model's context of ", capacity,
                             " positions is full; it continues from its last two blocks of text"));
  turn_.next_row = 0;
  turn_.position = 0;
  turn_.waiting.clear();
  if (with_previous) turn_.waiting = turn_.previous;
  turn_.waiting.insert(turn_.waiting.end(), turn_.current.begin(), turn_.current.end());
}

void SpeechWindow::compute(std::span<float> logits) {
  make_room();
  const auto width = static_cast<size_t>(decoder_.config().width);
  const int64_t n = waiting_rows();
  const bool wraps = attention_ == SpeechAttention::sliding_window;
  require(n > 0 && (!wraps || n <= kMostTogether), ErrorCode::internal, n,
          " speech rows can't be computed at once");
  const int64_t seen = first_seen();
  for (int64_t start = 0; start < n; start += kBatch) {
    const int64_t count = std::min(kBatch, n - start);
    const bool is_last = start + count == n;
    const auto last_row = static_cast<int32_t>(count - 1);
    cache_.run({.row = turn_.next_row, .position = turn_.position, .first_seen = seen, .wraps = wraps},
               std::span(turn_.waiting)
                   .subspan(static_cast<size_t>(start) * width, static_cast<size_t>(count) * width),
               std::span(&last_row, is_last ? 1 : 0), Hidden::rows, {},
               is_last ? logits : std::span<float>());
    turn_.next_row += count;
    turn_.position += count;
  }
  turn_.waiting.clear();
}

}  // namespace omni
