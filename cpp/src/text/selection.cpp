// text/selection.cpp - penalties, top-k, top-p, drawing.
#include "text/selection.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace omni {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool better(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

float best_score(std::span<const Candidate> candidates) {
  return std::max_element(candidates.begin(), candidates.end(),
                          [](const Candidate& a, const Candidate& b) { return a.score < b.score; })
      ->score;
}

}  // namespace

void check_scores(std::span<const float> scores, size_t size) {
  require(scores.size() == size, ErrorCode::invalid_argument, "expected ", size,
          " logits, one for each token, got ", scores.size());
  float best = kNever;
  bool bad = false;
  for (const float score : scores) {
    bad |= !(score < std::numeric_limits<float>::infinity());  // NaN too
    best = std::max(best, score);
  }
  require(!bad, ErrorCode::invalid_argument,
          "the logits hold NaN or infinity; the weights or the input of the model are damaged");
  require(best > kNever, ErrorCode::invalid_argument, "all logits are -inf: no token is allowed");
}

int32_t argmax(std::span<const float> scores) {
  return static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

template <typename Function>
void RepetitionPenalty::for_distinct(std::span<const int32_t> ids, Function&& function) {
  if (++step_ == 0) {
    std::fill(seen_.begin(), seen_.end(), 0);
    step_ = 1;
  }
  for (const int32_t id : ids) {
    uint32_t& seen = seen_[static_cast<size_t>(id)];
    if (seen != step_) function(static_cast<size_t>(id));
    seen = step_;
  }
}

void RepetitionPenalty::apply(std::span<float> scores, std::span<const int32_t> ids, float penalty) {
  if (penalty == 1) return;
  for_distinct(ids, [&](size_t id) { penalize(scores[id], penalty); });
}

void RepetitionPenalty::apply_sign_blind(std::span<float> scores, std::span<const int32_t> ids,
                                         float penalty) {
  if (penalty == 1) return;
  for_distinct(ids, [&](size_t id) {
    if (penalty > 1) {
      scores[id] /= penalty;
    } else {
      scores[id] *= 1 / penalty;
    }
  });
}

void RepetitionPenalty::apply_by_count(std::span<float> scores, std::span<const int32_t> ids, float penalty) {
  if (penalty == 1) return;
  for_distinct(ids, [&](size_t id) {
    const auto count = std::count(ids.begin(), ids.end(), static_cast<int32_t>(id));
    penalize(scores[id], std::pow(penalty, static_cast<float>(count)));
  });
}

void Selection::take_all(std::span<const float> scores) {
  kept_.clear();
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] > kNever) kept_.push_back({static_cast<int32_t>(i), scores[i]});
  }
}

void Selection::take_top_k(std::span<const float> scores, size_t k, bool keep_ties) {
  // A heap of the k best; few scores pass its smallest one, so this is one quick pass.
  heap_.clear();
  for (const float score : scores) {
    if (heap_.size() < k) {
      heap_.push_back(score);
      std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    } else if (score > heap_.front()) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      heap_.back() = score;
      std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
    }
  }
  const float threshold = heap_.front();
  kept_.clear();
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] >= threshold && scores[i] > kNever) kept_.push_back({static_cast<int32_t>(i), scores[i]});
  }
  std::sort(kept_.begin(), kept_.end(), better);
  if (!keep_ties && kept_.size() > k) kept_.resize(k);
}

void Selection::cut_top_p(float p, size_t min_keep, bool keep_at_p) {
  const float best = best_score(kept_);
  const auto weight = [best](const Candidate& c) { return std::exp(static_cast<double>(c.score) - best); };
  double total = 0;
  for (const Candidate& c : kept_) total += weight(c);
  double mass = 0;
  size_t sorted = 0, count = 0;
  for (; count < kept_.size(); ++count) {
    if (count == sorted) {  // sort as much again as was needed so far
      sorted = std::min(kept_.size(), std::max<size_t>(64, 2 * sorted));
      const auto at = [this](size_t i) { return kept_.begin() + static_cast<std::ptrdiff_t>(i); };
      if (sorted < kept_.size()) std::nth_element(at(count), at(sorted), kept_.end(), better);
      std::sort(at(count), at(sorted), better);
    }
    const double before = mass / total;
    if (count >= min_keep && !(before < p || (keep_at_p && before == p))) break;
    mass += weight(kept_[count]);
  }
  kept_.resize(count);
}

void Selection::select(std::span<const float> scores, const FilterOptions& options) {
  const auto min_keep = static_cast<size_t>(std::max(1, options.min_keep));
  const auto k = std::max(min_keep, static_cast<size_t>(std::max(0, options.top_k)));
  const bool use_k = options.top_k > 0 && k < scores.size();
  const bool use_p = options.top_p > 0 && options.top_p < 1;
  if (use_k && !options.top_p_first) {
    take_top_k(scores, k, options.keep_ties);
  } else {
    take_all(scores);
  }
  require(!kept_.empty(), ErrorCode::invalid_argument, "all logits are -inf: no token is allowed");
  if (use_p) cut_top_p(options.top_p, min_keep, options.keep_at_p);
  if (use_k && options.top_p_first) {
    if (!use_p) std::sort(kept_.begin(), kept_.end(), better);
    size_t count = std::min(k, kept_.size());
    while (options.keep_ties && count < kept_.size() && kept_[count].score == kept_[k - 1].score) ++count;
    kept_.resize(count);
  }
}

void Selection::remove(int32_t id) {
  std::erase_if(kept_, [id](const Candidate& c) { return c.id == id; });
}

int32_t Selection::draw(Random& random) {
  require(!kept_.empty(), ErrorCode::invalid_argument, "no token is allowed");
  const float best = best_score(kept_);
  weights_.clear();
  double total = 0;
  for (const Candidate& c : kept_) {
    weights_.push_back(std::exp(static_cast<double>(c.score) - best));
    total += weights_.back();
  }
  double left = random.uniform() * total;
  size_t last = 0;
  for (size_t i = 0; i < kept_.size(); ++i) {
    if (weights_[i] == 0) continue;
    last = i;
    left -= weights_[i];
    if (left < 0) break;
  }
  return kept_[last].id;
}

void filter_scores(std::span<float> scores, const FilterOptions& options) {
  Selection selection;
  selection.select(scores, options);
  std::fill(scores.begin(), scores.end(), kNever);
  for (const Candidate& c : selection.candidates()) scores[static_cast<size_t>(c.id)] = c.score;
}

}  // namespace omni
