// text/beam_search.cpp - beam search over an interface.
#include "omni/beam_search.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "text/selection.h"

namespace omni {
namespace {

constexpr float kUnfilled = -1e9F;  // score of a slot that holds no text
constexpr float kDead = -1e8F;      // anything below can only come from such a slot
constexpr float kNever = -std::numeric_limits<float>::infinity();

class Search {
 public:
  Search(BeamModel& model, std::span<const float> first_logits, const std::vector<int32_t>& stop_ids,
         const BeamSearchOptions& options)
      : model_(model),
        options_(options),
        stop_ids_(stop_ids),
        n_beams_(static_cast<size_t>(options.n_beams)),
        n_vocab_(first_logits.size()),
        n_candidates_(std::max<size_t>(2, 1 + stop_ids.size()) * n_beams_),
        logits_(n_beams_ * n_vocab_),
        scores_(n_vocab_),
        penalty_(n_vocab_),
        random_(options.seed),
        running_(n_beams_),
        parents_(n_beams_),
        tokens_(n_beams_) {
    check_scores(first_logits, n_vocab_);
    for (size_t b = 0; b < n_beams_; ++b) {
      std::copy(first_logits.begin(), first_logits.end(), logits_of(b).begin());
      running_[b].score = b == 0 ? 0 : kUnfilled;
    }
  }

  BeamSearchResult run() {
    for (int step = 1;; ++step) {
      collect(step);
      if (options_.greedy) {
        std::stable_sort(pool_.begin(), pool_.end(),
                         [](const Continuation& a, const Continuation& b) { return a.score > b.score; });
        if (pool_.size() > n_candidates_) pool_.resize(n_candidates_);
      } else {
        draw();
      }
      for (Continuation& c : pool_) c.stops = is_stop(c.id) || step == options_.max_new_tokens;
      finish(step);
      const bool all_stop = std::all_of(pool_.begin(), pool_.end(), [](const auto& c) { return c.stops; });
      if (all_stop) break;
      advance();
      // The best that a running text can reach is no better than the worst finished one.
      const float worst_done = done_.size() < n_beams_ ? kUnfilled : done_.back().score;
      if (!(normalized(running_[0].score, step) > worst_done)) break;
      model_.step(parents_, tokens_, logits_);
    }
    return {std::move(done_.front().ids), done_.front().score};
  }

 private:
  struct Beam {
    std::vector<int32_t> ids;
    float score = kUnfilled;
  };
  struct Continuation {
    size_t beam = 0;
    int32_t id = 0;
    float score = 0;  // of the whole text
    bool stops = false;
  };

  std::span<float> logits_of(size_t beam) { return std::span(logits_).subspan(beam * n_vocab_, n_vocab_); }
  bool is_stop(int32_t id) const {
    return std::find(stop_ids_.begin(), stop_ids_.end(), id) != stop_ids_.end();
  }
  float normalized(float score, int length) const {
    return score / std::pow(static_cast<float>(length), options_.length_penalty);
  }

  // All continuations of the running texts that the processors leave, with their scores.
  void collect(int step) {
    pool_.clear();
    for (size_t b = 0; b < n_beams_; ++b) {
      if (running_[b].score < kDead) continue;
      process(b, step);
      FilterOptions filters;
      if (options_.greedy) {
        filters = {.top_k = static_cast<int>(n_candidates_), .keep_ties = false};
      } else {
        for (float& s : scores_) s /= options_.temperature;
        const auto min_keep = static_cast<int>(stop_ids_.size()) + 1;
        filters = {
            .top_k = options_.top_k, .top_p = options_.top_p, .min_keep = min_keep, .keep_at_p = false};
      }
      selection_.select(scores_, filters);
      for (const Candidate& c : selection_.candidates()) {
        pool_.push_back({b, c.id, running_[b].score + c.score, false});
      }
    }
  }

  // Log-probabilities of beam b, processed: the penalty acts on them, not on the logits.
  void process(size_t b, int step) {
    const std::span<const float> logits = logits_of(b);
    check_scores(logits, n_vocab_);
    const float best = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (const float logit : logits) total += std::exp(logit - best);
    const float log_total = best + static_cast<float>(std::log(total));
    for (size_t i = 0; i < n_vocab_; ++i) scores_[i] = logits[i] - log_total;
    penalty_.apply(scores_, running_[b].ids, options_.repetition_penalty);
    if (step <= options_.min_new_tokens) {
      for (const int32_t id : stop_ids_) scores_[static_cast<size_t>(id)] = kNever;
    }
  }

  // Draws without replacement, in proportion to the probabilities of the whole texts; keeps the order.
  void draw() {
    float best = kNever;
    for (const Continuation& c : pool_) best = std::max(best, c.score);
    drawn_.clear();
    while (drawn_.size() < n_candidates_ && !pool_.empty()) {
      double total = 0;
      for (const Continuation& c : pool_) total += std::exp(c.score - best);
      if (total <= 0) break;
      double left = random_.uniform() * total;
      size_t chosen = pool_.size();
      for (size_t i = 0; i < pool_.size(); ++i) {
        const double weight = std::exp(pool_[i].score - best);
        if (weight == 0) continue;
        chosen = i;
        left -= weight;
        if (left < 0) break;
      }
      drawn_.push_back(pool_[chosen]);
      pool_.erase(pool_.begin() + static_cast<std::ptrdiff_t>(chosen));
    }
    std::swap(pool_, drawn_);
  }

  // Texts that end here join the finished ones, if they are among the first candidates.
  void finish(int step) {
    for (size_t i = 0; i < std::min(n_beams_, pool_.size()); ++i) {
      const Continuation& c = pool_[i];
      if (!c.stops) continue;
      Beam beam{running_[c.beam].ids, normalized(c.score, step)};
      beam.ids.push_back(c.id);
      done_.push_back(std::move(beam));
    }
    std::stable_sort(done_.begin(), done_.end(),
                     [](const Beam& a, const Beam& b) { return a.score > b.score; });
    if (done_.size() > n_beams_) done_.resize(n_beams_);
  }

  // The best candidates that go on become the running texts.
  void advance() {
    std::erase_if(pool_, [](const Continuation& c) { return c.stops; });
    std::stable_sort(pool_.begin(), pool_.end(),
                     [](const Continuation& a, const Continuation& b) { return a.score > b.score; });
    std::vector<Beam> next(n_beams_);
    for (size_t b = 0; b < n_beams_; ++b) {
      const bool alive = b < pool_.size();
      // A slot without a text repeats the best one's step; its result is not looked at.
      const Continuation& c = pool_[alive ? b : 0];
      parents_[b] = static_cast<int32_t>(c.beam);
      tokens_[b] = c.id;
      next[b].ids = running_[c.beam].ids;
      next[b].ids.push_back(c.id);
      next[b].score = alive ? c.score : kUnfilled;
    }
    running_ = std::move(next);
  }

  BeamModel& model_;
  const BeamSearchOptions& options_;
  const std::vector<int32_t>& stop_ids_;
  size_t n_beams_, n_vocab_, n_candidates_;
  std::vector<float> logits_;  // [n_vocab, n_beams]
  std::vector<float> scores_;  // [n_vocab]
  RepetitionPenalty penalty_;
  Selection selection_;
  Random random_;
  std::vector<Beam> running_;
  std::vector<Beam> done_;  // best first
  std::vector<Continuation> pool_, drawn_;
  std::vector<int32_t> parents_, tokens_;
};

}  // namespace

BeamSearchResult beam_search(BeamModel& model, std::span<const float> first_logits,
                             const std::vector<int32_t>& stop_ids, const BeamSearchOptions& options) {
  const auto check = [](bool good, const auto&... message) {
    require(good, ErrorCode::invalid_argument, message...);
  };
  check(options.n_beams >= 1 && options.n_beams <= 64, options.n_beams, " beams; 1 to 64 are possible");
  check(options.max_new_tokens >= 1, "max_new_tokens is ", options.max_new_tokens, "; at least 1 is needed");
  check(options.greedy || options.temperature > 0, "temperature is ", options.temperature,
        "; it must be above 0, or greedy set");
  check(options.repetition_penalty > 0, "repetition_penalty is ", options.repetition_penalty,
        "; it must be above 0 (1: off)");
  check(!first_logits.empty(), "no logits were given");
  for (const int32_t id : stop_ids) {
    check(id >= 0 && static_cast<size_t>(id) < first_logits.size(), "stop id ", id,
          " is outside of the vocabulary of ", first_logits.size(), " tokens");
  }
  return Search(model, first_logits, stop_ids, options).run();
}

}  // namespace omni
