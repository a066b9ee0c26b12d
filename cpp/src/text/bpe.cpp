// text/bpe.cpp - byte-pair merges over token ids.
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace omni {
namespace {

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

MergeTable::MergeTable(size_t count) : slots_(std::bit_ceil(2 * count + 2)) {}

size_t MergeTable::slot(uint64_t pair) const {
  // Fibonacci hashing; the high bits are the well-mixed ones.
  size_t at = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u >> 20 & (slots_.size() - 1);
  while (slots_[at].pair != kEmpty && slots_[at].pair != pair) at = (at + 1) & (slots_.size() - 1);
  return at;
}

bool MergeTable::insert(int32_t left, int32_t right, uint32_t rank, int32_t merged) {
  Merge& entry = slots_[slot(pair_of(left, right))];
  if (entry.pair != kEmpty) return false;
  entry = {pair_of(left, right), rank, merged};
  return true;
}

const MergeTable::Merge* MergeTable::find(int32_t left, int32_t right) const {
  const Merge& entry = slots_[slot(pair_of(left, right))];
  return entry.pair == kEmpty ? nullptr : &entry;
}

void BytePairMerger::propose(uint32_t at, const std::vector<int32_t>& symbols) {
  const uint32_t right = next_[at];
  const MergeTable::Merge* merge = right == kNone ? nullptr : table_.find(symbols[at], symbols[right]);
  rank_[at] = merge == nullptr ? kNone : merge->rank;
  if (merge == nullptr) return;
  queue_.push_back(static_cast<uint64_t>(merge->rank) << 32 | at);
  std::push_heap(queue_.begin(), queue_.end(), std::greater<>());
}

void BytePairMerger::merge(std::vector<int32_t>& symbols) {
  const auto count = static_cast<uint32_t>(symbols.size());
  if (count < 2) return;
  next_.resize(count);
  previous_.resize(count);
  rank_.resize(count);
  queue_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    next_[i] = i + 1 < count ? i + 1 : kNone;
    previous_[i] = i > 0 ? i - 1 : kNone;
  }
  for (uint32_t i = 0; i < count; ++i) propose(i, symbols);

  while (!queue_.empty()) {
    std::pop_heap(queue_.begin(), queue_.end(), std::greater<>());
    const uint64_t top = queue_.back();
    queue_.pop_back();
    const auto left = static_cast<uint32_t>(top);
    // The symbols changed since: another rank now, or none.
    if (rank_[left] != static_cast<uint32_t>(top >> 32)) continue;
    const uint32_t right = next_[left];
    symbols[left] = table_.find(symbols[left], symbols[right])->merged;
    rank_[right] = kNone;
    next_[left] = next_[right];
    if (next_[right] != kNone) previous_[next_[right]] = left;
    propose(left, symbols);
    if (previous_[left] != kNone) propose(previous_[left], symbols);
  }

  size_t out = 0;
  for (uint32_t i = 0; i != kNone; i = next_[i]) symbols[out++] = symbols[i];
  symbols.resize(out);
}

}  // namespace omni
