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
  next_row_ = 0;
  position_ = 0;
  first_block_ = 0;
  first_done_ = false;
  waiting_.clear();
  current_.clear();
  previous_.clear();
}

int64_t SpeechWindow::first_seen() const {
  // Whatever is computed together sees the same rows.
  return attention_ == SpeechAttention::sliding_window ? std::max<int64_t>(0, next_row_ - sliding_rows_) : 0;
}

void SpeechWindow::begin_block() {
  if (current_.empty()) return;
  if (!first_done_) first_block_ = rows_of(current_);
  first_done_ = true;
  std::swap(previous_, current_);
  current_.clear();
  if (attention_ == SpeechAttention::sliding_recompute) restart_with_previous();
  if (attention_ == SpeechAttention::reindex) keep_first_and_previous();
}

void SpeechWindow::push(std::span<const float> rows) {
  waiting_.insert(waiting_.end(), rows.begin(), rows.end());
  current_.insert(current_.end(), rows.begin(), rows.end());
}

void SpeechWindow::skip_waiting() {
  position_ += waiting_rows();
  waiting_.clear();
}

void SpeechWindow::restart_with_previous() {
  next_row_ = 0;
  position_ = 0;
  waiting_ = previous_;
}

void SpeechWindow::keep_first_and_previous() {
  const int64_t kept = rows_of(previous_);
  if (next_row_ <= first_block_ + kept) return;
  const int64_t first = next_row_ - kept;
  // The reference turns each further key by one position more, so that the kept block ends up stretched to
  // twice its length. Checkpoints that ask for this attention were run so.
  cache_.move(first, kept, first_block_, first_block_ - first, 1);
  next_row_ = first_block_ + kept;
  position_ = next_row_;
}

void SpeechWindow::make_room() {
  const int64_t capacity = cache_.whole_rows();
  if (attention_ == SpeechAttention::sliding_window) return;  // old rows are written over
  if (next_row_ + waiting_rows() <= capacity) return;
  const bool with_previous = rows_of(previous_) + rows_of(current_) <= capacity;
  const int64_t needed = rows_of(current_) + (with_previous ? rows_of(previous_) : 0);
  require(needed <= capacity, ErrorCode::context_full, "the speech model's context of ", capacity,
          " positions can't hold a block of ", needed, "; use a larger n_ctx, or speak the text in parts");
  log(LogLevel::warning, str("the speech model's context of ", capacity,
                             " positions is full; it continues from its last two blocks of text"));
  next_row_ = 0;
  position_ = 0;
  waiting_.clear();
  if (with_previous) waiting_ = previous_;
  waiting_.insert(waiting_.end(), current_.begin(), current_.end());
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
    cache_.run(
        {.row = next_row_, .position = position_, .first_seen = seen, .wraps = wraps},
        std::span(waiting_).subspan(static_cast<size_t>(start) * width, static_cast<size_t>(count) * width),
        std::span(&last_row, is_last ? 1 : 0), Hidden::rows, {}, is_last ? logits : std::span<float>());
    next_row_ += count;
    position_ += count;
  }
  waiting_.clear();
}

}  // namespace omni
