// text/sampler.cpp - the samplers of chat, streaming, duplex and speech.
#include "omni/sampler.h"

#include "omni/error.h"
#include "omni/tokenizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/random.h"
#include "text/selection.h"

namespace omni {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr int kSpeechPenaltyWindow = 16;  // the speech model's processor looks at so many tokens
constexpr int kSpeechMinKeep = 3;         // of each of its filters

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

template <typename Options>
void check_options(const Options& o) {
  const auto check = [](bool good, const char* name, auto value, const char* range) {
    require(good, ErrorCode::invalid_argument, name, " is ", value, "; it must be ", range);
  };
  check(std::isfinite(o.temperature) && o.temperature >= 0, "temperature", o.temperature, "0 or more");
  check(o.top_k >= 0, "top_k", o.top_k, "0 (off) or more");
  check(o.top_p >= 0 && o.top_p <= 1, "top_p", o.top_p, "from 0 to 1");
  check(std::isfinite(o.repetition_penalty) && o.repetition_penalty > 0, "repetition_penalty",
        o.repetition_penalty, "above 0 (1: off)");
  if constexpr (requires { o.length_penalty; }) {
    check(std::isfinite(o.length_penalty) && o.length_penalty > 0, "length_penalty", o.length_penalty,
          "above 0 (1: off)");
  }
  if constexpr (requires { o.penalty_window; }) {
    check(o.penalty_window >= 0, "penalty_window", o.penalty_window, "0 or more");
  }
  if constexpr (requires { o.listen_prob_scale; }) {
    check(std::isfinite(o.listen_prob_scale), "listen_prob_scale", o.listen_prob_scale, "a finite number");
  }
}

// What every sampler keeps between steps.
struct Core {
  std::vector<float> scores;  // one for each token
  RepetitionPenalty penalty;
  Selection selection;
  Random random;
  std::vector<int32_t> history;

  Core(int32_t n_vocab, uint64_t seed)
      : scores(checked_size(n_vocab)), penalty(scores.size()), random(seed) {}

  static size_t checked_size(int32_t n_vocab) {
    require(n_vocab > 0, ErrorCode::invalid_argument, "a vocabulary of ", n_vocab, " tokens");
    return static_cast<size_t>(n_vocab);
  }
  void check_ids(std::span<const int32_t> ids) const {
    for (const int32_t id : ids) {
      require(id >= 0 && static_cast<size_t>(id) < scores.size(), ErrorCode::invalid_argument, "token id ",
              id, " is outside of the vocabulary of ", scores.size(), " tokens");
    }
  }
  void load(std::span<const float> logits) {
    check_scores(logits, scores.size());
    std::copy(logits.begin(), logits.end(), scores.begin());
  }
  void forbid(std::span<const int32_t> ids) {
    for (const int32_t id : ids) scores[static_cast<size_t>(id)] = kNever;
  }
  float& score(int32_t id) { return scores[static_cast<size_t>(id)]; }
  std::span<const int32_t> last(int count) const {
    return std::span(history).last(std::min(history.size(), static_cast<size_t>(count)));
  }
  void cool(float temperature) {
    for (float& s : scores) s /= temperature;
  }
  int32_t best() const {
    const int32_t id = argmax(scores);
    require(scores[static_cast<size_t>(id)] > kNever, ErrorCode::invalid_argument,
            "every token that the logits allow is forbidden");
    return id;
  }
  // The last steps that text samplers share.
  int32_t choose(bool greedy, float temperature, const FilterOptions& filters) {
    if (greedy || temperature == 0) return best();
    cool(temperature);
    selection.select(scores, filters);
    return selection.draw(random);
  }
  int32_t remember(int32_t id) {
    history.push_back(id);
    return id;
  }
};

}  // namespace

// ---- chat ----

struct ChatSampler::Impl {
  Core core;
  std::vector<int32_t> stop_ids;
  ChatSamplerOptions options;
};

ChatSampler::ChatSampler(int32_t n_vocab, std::vector<int32_t> stop_ids, const ChatSamplerOptions& options)
    : impl_(std::make_unique<Impl>(Impl{{n_vocab, options.seed}, std::move(stop_ids), options})) {
  check_options(options);
  impl_->core.check_ids(impl_->stop_ids);
}
ChatSampler::ChatSampler(const ChatSampler& other) : impl_(std::make_unique<Impl>(*other.impl_)) {}
ChatSampler& ChatSampler::operator=(const ChatSampler& other) {
  *impl_ = *other.impl_;
  return *this;
}
ChatSampler::~ChatSampler() = default;

int32_t ChatSampler::sample(std::span<const float> logits) {
  Core& core = impl_->core;
  const ChatSamplerOptions& o = impl_->options;
  core.load(logits);
  core.penalty.apply(core.scores, core.history, o.repetition_penalty);
  if (std::cmp_less(core.history.size(), o.min_new_tokens)) core.forbid(impl_->stop_ids);
  return core.remember(
      core.choose(o.greedy, o.temperature, {.top_k = o.top_k, .top_p = o.top_p, .keep_at_p = false}));
}
bool ChatSampler::is_stop(int32_t id) const {
  return contains(impl_->stop_ids, id);
}
const std::vector<int32_t>& ChatSampler::history() const {
  return impl_->core.history;
}
void ChatSampler::reset() {
  impl_->core.history.clear();
}

// ---- simplex streaming ----

struct StreamingSampler::Impl {
  Core core;
  std::vector<int32_t> stop_ids, forbidden;
  StreamingSamplerOptions options;
  size_t chunk_begin = 0;  // in the history
};

StreamingSampler::StreamingSampler(int32_t n_vocab, std::vector<int32_t> stop_ids,
                                   std::vector<int32_t> forbidden, const StreamingSamplerOptions& options)
    : impl_(std::make_unique<Impl>(
          Impl{{n_vocab, options.seed}, std::move(stop_ids), std::move(forbidden), options})) {
  check_options(options);
  impl_->core.check_ids(impl_->stop_ids);
  impl_->core.check_ids(impl_->forbidden);
}
StreamingSampler::StreamingSampler(const StreamingSampler& other)
    : impl_(std::make_unique<Impl>(*other.impl_)) {}
StreamingSampler& StreamingSampler::operator=(const StreamingSampler& other) {
  *impl_ = *other.impl_;
  return *this;
}
StreamingSampler::~StreamingSampler() = default;

void StreamingSampler::begin_chunk() {
  impl_->chunk_begin = impl_->core.history.size();
}

int32_t StreamingSampler::sample(std::span<const float> logits) {
  Core& core = impl_->core;
  const StreamingSamplerOptions& o = impl_->options;
  core.load(logits);
  core.forbid(impl_->forbidden);
  const size_t window = std::min(impl_->chunk_begin, static_cast<size_t>(o.penalty_window));
  core.penalty.apply(core.scores, std::span(core.history).subspan(impl_->chunk_begin - window),
                     o.repetition_penalty);
  if (o.length_penalty != 1) {
    for (const int32_t id : impl_->stop_ids) penalize(core.score(id), o.length_penalty);
  }
  return core.remember(
      core.choose(o.greedy, o.temperature, {.top_k = o.top_k, .keep_ties = false, .top_p = o.top_p}));
}
bool StreamingSampler::is_stop(int32_t id) const {
  return contains(impl_->stop_ids, id);
}
const std::vector<int32_t>& StreamingSampler::history() const {
  return impl_->core.history;
}
void StreamingSampler::reset() {
  impl_->core.history.clear();
  impl_->chunk_begin = 0;
}

std::vector<int32_t> streaming_forbidden_ids(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.bad_token_ids();
  for (const char* text : {":", "#", "@", "*", "(", ")", "[", "]", "&", "/", "$", "<unk>"}) {
    if (const auto id = tokenizer.id_of(text)) ids.push_back(*id);
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// ---- full duplex ----

DuplexTokens DuplexTokens::of(const Tokenizer& tokenizer) {
  DuplexTokens tokens;
  tokens.chunk_eos = tokenizer.required_id("<|chunk_eos|>");
  tokens.turn_eos = tokenizer.required_id("<|turn_eos|>");
  tokens.listen = tokenizer.required_id("<|listen|>");
  tokens.im_end = tokenizer.required_id("<|im_end|>");
  tokens.forbidden = tokenizer.bad_token_ids();
  tokens.forbidden.push_back(tokenizer.required_id("<|tts_pad|>"));
  tokens.forbidden.push_back(tokens.chunk_eos);
  std::sort(tokens.forbidden.begin(), tokens.forbidden.end());
  return tokens;
}

struct DuplexSampler::Impl {
  Core core;
  DuplexTokens tokens;
  DuplexSamplerOptions options;

  bool unit_ends();
};

DuplexSampler::DuplexSampler(int32_t n_vocab, DuplexTokens tokens, const DuplexSamplerOptions& options)
    : impl_(std::make_unique<Impl>(Impl{{n_vocab, options.seed}, std::move(tokens), options})) {
  check_options(options);
  const DuplexTokens& t = impl_->tokens;
  impl_->core.check_ids(std::vector{t.chunk_eos, t.turn_eos, t.listen, t.im_end});
  impl_->core.check_ids(t.forbidden);
}
DuplexSampler::DuplexSampler(const DuplexSampler& other) : impl_(std::make_unique<Impl>(*other.impl_)) {}
DuplexSampler& DuplexSampler::operator=(const DuplexSampler& other) {
  *impl_ = *other.impl_;
  return *this;
}
DuplexSampler::~DuplexSampler() = default;

// Draws from the untouched distribution; only the share of <|chunk_eos|> matters.
bool DuplexSampler::Impl::unit_ends() {
  const int32_t best = argmax(core.scores);
  if (options.greedy || options.temperature == 0) return best == tokens.chunk_eos;
  const float top = core.score(best);
  double total = 0;
  for (const float s : core.scores) total += std::exp(s - top);
  return core.random.uniform() * total < std::exp(core.score(tokens.chunk_eos) - top);
}

int32_t DuplexSampler::sample(std::span<const float> logits) {
  Core& core = impl_->core;
  const DuplexTokens& t = impl_->tokens;
  const DuplexSamplerOptions& o = impl_->options;
  core.load(logits);
  if (impl_->unit_ends()) return t.chunk_eos;
  core.forbid(t.forbidden);
  core.penalty.apply_sign_blind(core.scores, core.last(o.penalty_window), o.repetition_penalty);
  penalize(core.score(t.turn_eos), o.length_penalty);
  const int32_t listen = o.listen_options_on_eos ? t.im_end : t.listen;
  // -inf times a scale of 0 or less would not be a number.
  if (o.listen_prob_scale != 1 && core.score(listen) > kNever) core.score(listen) *= o.listen_prob_scale;
  if (o.listen_top_k) {
    const float score = core.score(listen);
    const auto above =
        std::count_if(core.scores.begin(), core.scores.end(), [score](float s) { return s > score; });
    if (above < *o.listen_top_k) return listen;
  }
  return core.remember(core.choose(o.greedy, o.temperature, {.top_k = o.top_k, .top_p = o.top_p}));
}

void DuplexSampler::set_options(const DuplexSamplerOptions& options) {
  check_options(options);
  impl_->options = options;
}
const DuplexSamplerOptions& DuplexSampler::options() const {
  return impl_->options;
}
const std::vector<int32_t>& DuplexSampler::history() const {
  return impl_->core.history;
}
void DuplexSampler::reset() {
  impl_->core.history.clear();
}

// ---- speech tokens ----

struct SpeechSampler::Impl {
  Core core;
  int32_t eos;
  SpeechSamplerOptions options;
};

SpeechSampler::SpeechSampler(int32_t n_codes, int32_t eos, const SpeechSamplerOptions& options)
    : impl_(std::make_unique<Impl>(Impl{{n_codes, options.seed}, eos, options})) {
  check_options(options);
  impl_->core.check_ids({&eos, 1});
}
SpeechSampler::SpeechSampler(const SpeechSampler& other) : impl_(std::make_unique<Impl>(*other.impl_)) {}
SpeechSampler& SpeechSampler::operator=(const SpeechSampler& other) {
  *impl_ = *other.impl_;
  return *this;
}
SpeechSampler::~SpeechSampler() = default;

int32_t SpeechSampler::sample(std::span<const float> logits, bool plain, bool ban_eos) {
  Core& core = impl_->core;
  const SpeechSamplerOptions& o = impl_->options;
  const bool greedy = o.greedy || o.temperature == 0;
  core.load(logits);
  if (o.temperature != 0) core.cool(o.temperature);
  if (!plain) {
    core.penalty.apply_by_count(core.scores, core.last(kSpeechPenaltyWindow), o.repetition_penalty);
  }
  int32_t id = -1;
  if (greedy) {
    // The filters keep the best three, so the best one that isn't banned is always among them.
    if (ban_eos) core.score(impl_->eos) = kNever;
    id = core.best();
  } else {
    FilterOptions filters;
    if (!plain) {
      filters = {.top_k = o.top_k,
                 .top_p = o.top_p,
                 .min_keep = kSpeechMinKeep,
                 .keep_at_p = false,
                 .top_p_first = true};
    }
    core.selection.select(core.scores, filters);
    if (ban_eos) core.selection.remove(impl_->eos);
    id = core.selection.draw(core.random);
  }
  return id == impl_->eos ? id : core.remember(id);
}
const std::vector<int32_t>& SpeechSampler::history() const {
  return impl_->core.history;
}
void SpeechSampler::reset() {
  impl_->core.history.clear();
}

}  // namespace omni
