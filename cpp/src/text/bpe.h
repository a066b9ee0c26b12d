// text/bpe.h - byte-pair merges over token ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace omni {

// Which pairs of tokens merge, into what, and how early. An open-addressing table: encoding is one look-up
// for each pair.
class MergeTable {
 public:
  struct Merge {
    uint64_t pair = kEmpty;  // left id << 32 | right id
    uint32_t rank = 0;       // lower merges first
    int32_t merged = 0;
  };

  explicit MergeTable(size_t count);
  // False if the pair has a merge already.
  bool insert(int32_t left, int32_t right, uint32_t rank, int32_t merged);
  const Merge* find(int32_t left, int32_t right) const;

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  size_t slot(uint64_t pair) const;

  std::vector<Merge> slots_;  // a power of two, at most half full
};

// Applies merges in the order of their ranks, leftmost first among equals. Keeps its buffers between words.
class BytePairMerger {
 public:
  explicit BytePairMerger(const MergeTable& table) : table_(table) {}
  // Merges `symbols` in place. O(n log n) for n symbols.
  void merge(std::vector<int32_t>& symbols);

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  // Looks at the pair that begins at `at` and queues its merge.
  void propose(uint32_t at, const std::vector<int32_t>& symbols);

  const MergeTable& table_;
  std::vector<uint32_t> next_, previous_;  // neighbours that are left
  std::vector<uint32_t> rank_;             // of the merge at this position, kNone without one
  std::vector<uint64_t> queue_;            // heap of rank << 32 | position; stale entries are skipped
};

}  // namespace omni
