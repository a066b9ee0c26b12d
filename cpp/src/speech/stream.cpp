// speech/stream.cpp - the rules of the three modes.
#include "speech/stream.h"

#include "omni/error.h"

#include <algorithm>

namespace omni {
namespace {

constexpr size_t kTokensAtOnce = 25;  // a second of sound, what token2wav takes at a time
constexpr size_t kTextTokens = 10;    // of a simplex block
constexpr int kTokensLimit = 1 << 16;

// What the modes do differently.
struct Rules {
  int min_tokens;  // duplex: in mid-turn only
  int max_tokens;
};

Rules rules_of(SpeechMode mode) {
  switch (mode) {
    case SpeechMode::duplex:
      return {25, 25};
    case SpeechMode::simplex:
      return {0, 500};
    default:
      return {50, 2047};
  }
}

SpeechStreamOptions resolved(SpeechStreamOptions o) {
  const Rules rules = rules_of(o.mode);
  if (o.min_tokens < 0) o.min_tokens = rules.min_tokens;
  if (o.max_tokens < 0) o.max_tokens = rules.max_tokens;
  require(o.max_tokens >= 1 && o.max_tokens <= kTokensLimit, ErrorCode::invalid_argument, "max_tokens is ",
          o.max_tokens, ", it must be 1 to ", kTokensLimit);
  require(o.attention == SpeechAttention::full || o.mode == SpeechMode::simplex, ErrorCode::invalid_argument,
          "other attention than full is for simplex streams only");
  require(o.attention != SpeechAttention::sliding_window || (o.window >= 1 && o.window <= kTokensLimit),
          ErrorCode::invalid_argument, "window is ", o.window, ", it must be 1 to ", kTokensLimit);
  return o;
}

SpeechSamplerOptions sampling(const SpeechStreamOptions& o) {
  const bool filters = o.mode != SpeechMode::duplex;
  return {.greedy = o.greedy,
          .temperature = o.temperature,
          .repetition_penalty = o.repetition_penalty,
          .top_p = filters ? o.top_p : 1.0F,
          .top_k = filters ? o.top_k : 0,
          .seed = o.seed};
}

}  // namespace

SpeechMode parse_speech_mode(const std::string& name) {
  if (name == "duplex") return SpeechMode::duplex;
  if (name == "simplex") return SpeechMode::simplex;
  if (name == "chat") return SpeechMode::chat;
  fail(ErrorCode::invalid_argument, "speech mode '", name, "' is none of duplex, simplex, chat");
}

SpeechAttention parse_speech_attention(const std::string& name) {
  if (name == "full_attention") return SpeechAttention::full;
  if (name == "sliding_window") return SpeechAttention::sliding_window;
  if (name == "sliding_recompute") return SpeechAttention::sliding_recompute;
  if (name == "reindex") return SpeechAttention::reindex;
  fail(ErrorCode::invalid_argument, "attention '", name,
       "' is none of full_attention, sliding_window, sliding_recompute, reindex");
}

SpeechStream::Impl::Impl(std::shared_ptr<const SpeechModel> owner_, const SpeechModel::Impl& model_,
                         const SpeechStreamOptions& options_)
    : owner(std::move(owner_)),
      model(model_),
      options(resolved(options_)),
      sampler(static_cast<int32_t>(model.info.n_codes), model.info.end_of_speech, sampling(options)),
      fresh_sampler(sampler),
      window(owner, model.decoder, model.executor, model.kv_type, model.options.n_ctx, options.attention,
             options.window),
      row(static_cast<size_t>(model.info.width)),
      logits(static_cast<size_t>(model.info.n_codes)) {}

bool SpeechStream::Impl::busy() const {
  return speaking || unit_waits || !ready.empty();
}

bool SpeechStream::Impl::begin_block() {
  if (closed) return false;
  const auto width = static_cast<size_t>(model.info.width);
  size_t count = conditions.size() / width;
  bool no_more_text = false;
  switch (options.mode) {
    case SpeechMode::duplex:
      if (!unit_waits) return false;
      unit_waits = false;
      break;
    case SpeechMode::simplex:
      no_more_text = last && count <= kTextTokens;
      if (!no_more_text && count < kTextTokens) return false;
      count = std::min(count, kTextTokens);
      break;
    case SpeechMode::chat:
      no_more_text = last;
      if (!last) return false;
      break;
  }
  const bool first_block = window.empty();
  closed = no_more_text;
  if (no_more_text && count == 0 && first_block) return false;  // an empty answer
  window.begin_block();
  window.push(std::span(conditions).first(count * width));
  conditions.erase(conditions.begin(), conditions.begin() + static_cast<std::ptrdiff_t>(count * width));
  if (no_more_text) {
    model.text.read(model.info.text_eos, row);
    window.push(row);
  }
  model.text.read(model.info.audio_bos, row);
  window.push(row);
  if (options.mode != SpeechMode::simplex) sampler.reset();
  const bool may_be_short = options.mode == SpeechMode::duplex && (last || first_block);
  min_tokens = may_be_short ? 0 : options.min_tokens;
  tokens_in_block = 0;
  speaking = true;
  return true;
}

void SpeechStream::Impl::step() {
  window.compute(logits);
  const bool plain = tokens_in_block == 0 && sampler.history().empty();
  const int32_t id = sampler.sample(logits, plain, tokens_in_block < min_tokens);
  if (id == model.info.end_of_speech) {
    speaking = false;
    return;
  }
  ready.push_back(id);
  model.codes.read(id, row);
  window.push(row);
  if (++tokens_in_block == options.max_tokens) end_block();
}

// At the limit the last token was not computed. A duplex unit is continued: it will be, with the next one.
// The reference's simplex blocks leave it out, but not its position.
void SpeechStream::Impl::end_block() {
  speaking = false;
  if (options.mode == SpeechMode::simplex) window.skip_waiting();
}

void SpeechStream::Impl::end_turn() {
  window.reset();
  sampler.reset();
  conditions.clear();
  ready.clear();
  unit_waits = false;
  last = false;
  closed = false;
  speaking = false;
}

void SpeechStream::Impl::give(std::vector<int32_t>& tokens, size_t count) {
  const auto end = ready.begin() + static_cast<std::ptrdiff_t>(count);
  tokens.assign(ready.begin(), end);
  ready.erase(ready.begin(), end);
}

void SpeechStream::Impl::reset() {
  end_turn();
  sampler = fresh_sampler;
}

SpeechStream::SpeechStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SpeechStream::~SpeechStream() = default;

const SpeechStreamOptions& SpeechStream::options() const {
  return impl_->options;
}
int64_t SpeechStream::position() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->window.position();
}
int64_t SpeechStream::n_cached() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->window.n_seen();
}

// Room for `count` more conditions, if now is the time for them.
std::span<float> SpeechStream::Impl::admit(size_t count) {
  require(!last, ErrorCode::invalid_argument,
          "the turn's text has ended; take its tokens until there are none before pushing more");
  require(options.mode != SpeechMode::duplex || !busy(), ErrorCode::invalid_argument,
          "a unit is being spoken; take its tokens until there are none before pushing the next");
  const auto width = static_cast<size_t>(model.info.width);
  const size_t before = conditions.size();
  if (options.mode == SpeechMode::chat) {
    const auto n_text = static_cast<int64_t>(before / width + count);
    require(n_text + 2 + options.max_tokens <= model.options.n_ctx, ErrorCode::context_full, "an answer of ",
            n_text, " text tokens and up to ", options.max_tokens,
            " speech tokens doesn't fit into the speech model's ", model.options.n_ctx,
            " positions; use a larger n_ctx, or speak it in parts");
  }
  conditions.resize(before + count * width);
  return std::span(conditions).subspan(before);
}

void SpeechStream::Impl::accept(bool last_) {
  last = last_;
  unit_waits = options.mode == SpeechMode::duplex;
}

void SpeechStream::push(std::span<const int32_t> ids, std::span<const float> hidden, bool last) {
  Impl& s = *impl_;
  const std::lock_guard lock(s.mutex);
  s.model.check(ids, hidden);
  const std::span<float> added = s.admit(ids.size());
  try {
    s.model.text.read(ids, added);
    s.model.projector->add(hidden, added);
  } catch (...) {
    s.conditions.resize(s.conditions.size() - added.size());
    throw;
  }
  s.accept(last);
}

void SpeechStream::push_conditions(std::span<const float> rows, bool last) {
  Impl& s = *impl_;
  const std::lock_guard lock(s.mutex);
  s.model.check_rows(rows);
  std::ranges::copy(rows, s.admit(rows.size() / static_cast<size_t>(s.model.info.width)).begin());
  s.accept(last);
}

bool SpeechStream::next(std::vector<int32_t>& tokens) {
  Impl& s = *impl_;
  const std::lock_guard lock(s.mutex);
  tokens.clear();
  try {
    while (s.ready.size() < kTokensAtOnce && (s.speaking || s.begin_block())) {
      s.step();
      // A unit's tokens don't wait for those of the next.
      if (!s.speaking && s.options.mode == SpeechMode::duplex) break;
    }
    const bool all = s.options.mode == SpeechMode::duplex || s.last;
    const size_t whole = s.ready.size() >= kTokensAtOnce ? kTokensAtOnce : 0;
    s.give(tokens, all ? std::min(s.ready.size(), kTokensAtOnce) : whole);
    if (s.last && !s.busy() && (s.closed || s.options.mode == SpeechMode::duplex)) s.end_turn();
  } catch (...) {
    s.reset();
    throw;
  }
  return !tokens.empty();
}

void SpeechStream::flush(std::vector<int32_t>& tokens) {
  Impl& s = *impl_;
  const std::lock_guard lock(s.mutex);
  s.give(tokens, s.ready.size());
  s.end_turn();
}

void SpeechStream::reset() {
  const std::lock_guard lock(impl_->mutex);
  impl_->reset();
}

std::unique_ptr<SpeechStream> SpeechStream::clone() const {
  Impl& s = *impl_;
  const std::lock_guard lock(s.mutex);
  auto copy = std::make_unique<Impl>(s.owner, s.model, s.options);
  static_cast<SpeechProgress&>(*copy) = static_cast<const SpeechProgress&>(s);
  copy->sampler = s.sampler;
  copy->window.copy_from(s.window);
  return std::unique_ptr<SpeechStream>(new SpeechStream(std::move(copy)));
}

std::unique_ptr<SpeechStream> SpeechModel::stream(const SpeechStreamOptions& options) {
  return std::unique_ptr<SpeechStream>(
      new SpeechStream(std::make_unique<SpeechStream::Impl>(shared_from_this(), *impl_, options)));
}

}  // namespace omni
