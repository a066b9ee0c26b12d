// text/selection.h - the pieces of every sampler: penalties, top-k, top-p, drawing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"

namespace omni {

// Throws Error(invalid_argument) unless there are `size` scores, none is NaN or +inf, and one is finite.
void check_scores(std::span<const float> scores, size_t size);
// The first of the largest.
int32_t argmax(std::span<const float> scores);

// Makes a repeated token less likely for a penalty above 1.
inline void penalize(float& score, float penalty) {
  score = score < 0 ? score * penalty : score / penalty;
}

// Penalizes each distinct id once. Keeps its table between steps.
class RepetitionPenalty {
 public:
  explicit RepetitionPenalty(size_t n_vocab) : seen_(n_vocab, 0) {}
  // One factor for each id, whatever its count.
  void apply(std::span<float> scores, std::span<const int32_t> ids, float penalty);
  // The duplex decoder's rule: divides by the penalty regardless of the sign.
  void apply_sign_blind(std::span<float> scores, std::span<const int32_t> ids, float penalty);
  // The speech model's rule: penalty to the power of the id's count.
  void apply_by_count(std::span<float> scores, std::span<const int32_t> ids, float penalty);

 private:
  template <typename Function>
  void for_distinct(std::span<const int32_t> ids, Function&& function);

  std::vector<uint32_t> seen_;  // by id, the step that saw it last
  uint32_t step_ = 0;
};

struct Candidate {
  int32_t id = 0;
  float score = 0;
};

struct FilterOptions {
  int top_k = 0;          // 0: off
  bool keep_ties = true;  // keep all scores equal to the k-th; else the lower ids, exactly k
  float top_p = 0;        // 0, or 1 and above: off
  int min_keep = 1;       // both filters keep at least so many
  bool keep_at_p = true;  // keep a token if the mass before it is exactly p
  bool top_p_first = false;
};

// The candidates that top-k and top-p leave. Keeps its buffers between steps; never sorts more than needed.
class Selection {
 public:
  // Scores of -inf are never candidates.
  void select(std::span<const float> scores, const FilterOptions& options);
  // Sorted by score, then id, unless both filters were off.
  std::span<const Candidate> candidates() const { return kept_; }
  void remove(int32_t id);
  // One draw from softmax over the candidates.
  int32_t draw(Random& random);

 private:
  void take_all(std::span<const float> scores);
  void take_top_k(std::span<const float> scores, size_t k, bool keep_ties);
  void cut_top_p(float p, size_t min_keep, bool keep_at_p);

  std::vector<Candidate> kept_;
  std::vector<float> heap_;
  std::vector<double> weights_;
};

// Sets everything to -inf that the filters drop.
void filter_scores(std::span<float> scores, const FilterOptions& options);

}  // namespace omni
