// session/duplex_logic.cpp - the full-duplex state machine: listen or speak, one unit at a time.
#include "omni/duplex.h"
#include "omni/error.h"

#include <optional>
#include <utility>

#include "session/duplex_window.h"

namespace omni {
namespace {

// Tokens of the protocol, found by their texts.
struct Protocol {
  explicit Protocol(const Tokenizer& t)
      : unit(t.required_id("<unit>")),
        unit_end(t.required_id("</unit>")),
        image(t.required_id("<image>")),
        image_end(t.required_id("</image>")),
        slice(t.required_id("<slice>")),
        slice_end(t.required_id("</slice>")),
        listen(t.required_id("<|listen|>")),
        tts_bos(t.required_id("<|tts_bos|>")),
        chunk_eos(t.required_id("<|chunk_eos|>")),
        chunk_tts_eos(t.required_id("<|chunk_tts_eos|>")),
        turn_eos(t.required_id("<|turn_eos|>")) {}

  bool ends_unit(int32_t id) const { return id == listen || id == chunk_eos || id == chunk_tts_eos; }

  int32_t unit, unit_end, image, image_end, slice, slice_end;
  int32_t listen, tts_bos, chunk_eos, chunk_tts_eos, turn_eos;
};

// Characters of UTF-8 text.
int count_characters(const std::string& text) {
  int count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1 : 0;
  return count;
}

DuplexSamplerOptions sampling_of(const DuplexOptions& options) {
  DuplexSamplerOptions sampling = options.sampling;
  sampling.listen_options_on_eos = options.reference_quirks;
  return sampling;
}

const DuplexOptions& checked(const DuplexOptions& o) {
  require(o.max_new_speak_tokens_per_chunk >= 1, ErrorCode::invalid_argument,
          "max_new_speak_tokens_per_chunk is ", o.max_new_speak_tokens_per_chunk, ", it must be at least 1");
  require(o.force_listen_count >= 0 && o.max_unit_characters >= 0, ErrorCode::invalid_argument,
          "force_listen_count and max_unit_characters must not be negative");
  require(o.basic_window_low_tokens >= 0 && o.basic_window_low_tokens <= o.basic_window_high_tokens,
          ErrorCode::invalid_argument, "basic_window_low_tokens (", o.basic_window_low_tokens,
          ") must not be above basic_window_high_tokens (", o.basic_window_high_tokens, ")");
  require(o.context_max_units >= 1 && o.context_previous_max_tokens >= 0, ErrorCode::invalid_argument,
          "context_max_units must be at least 1 and context_previous_max_tokens not negative");
  return o;
}

}  // namespace

namespace {

// A unit between its prefill and its end.
struct OpenUnit {
  int64_t first_row = 0;
  DuplexUnit unit;
  std::vector<int32_t> end;  // terminator and </unit>, not fed yet
  bool generated = false;
};

// What a session changes beside its window and the model's cache.
struct DuplexProgress {
  explicit DuplexProgress(const DuplexSampler& sampler_) : sampler(sampler_) {}

  DuplexSampler sampler;
  std::vector<float> logits;  // of the next decision
  bool has_logits = false;
  bool turn_ended = true;  // true: silent, may listen
  bool is_broken = false;
  bool is_stopped = false;
  int64_t calls = 0;  // of generate(), for force_listen_count
  std::optional<OpenUnit> open;
  std::vector<std::string> schema;  // one for each unit
};

}  // namespace

class DuplexLogic::Snapshot {
 public:
  Snapshot(const DuplexProgress& progress_, const DuplexWindow::State& window_)
      : progress(progress_), window(window_) {}

  DuplexProgress progress;
  DuplexWindow::State window;
};

struct DuplexLogic::Impl : DuplexProgress {
  Impl(SessionModel& model_, Tokenizer tokenizer_, const DuplexOptions& options_)
      : DuplexProgress({model_.n_vocab(), DuplexTokens::of(tokenizer_), sampling_of(options_)}),
        model(model_),
        tokenizer(std::move(tokenizer_)),
        options(checked(options_)),
        protocol(tokenizer),
        window(model, tokenizer, options) {}

  void append_ids(std::vector<float>& rows, std::span<const int32_t> ids) const {
    const size_t at = rows.size();
    rows.resize(at + ids.size() * static_cast<size_t>(model.width()));
    model.embed(ids, std::span(rows).subspan(at));
  }
  void append_rows(std::vector<float>& rows, std::span<const float> more, const char* what) const {
    require(!more.empty() && more.size() % static_cast<size_t>(model.width()) == 0,
            ErrorCode::invalid_argument, what, " must be [n, ", model.width(), "], got ", more.size(),
            " values");
    rows.insert(rows.end(), more.begin(), more.end());
  }
  int64_t rows_of(size_t values) const { return static_cast<int64_t>(values) / model.width(); }

  SessionModel::Output feed(int32_t id, bool want_logits) {
    embeds.clear();
    append_ids(embeds, {&id, 1});
    return model.forward(embeds, want_logits ? 0 : -1);
  }

  // Rows that generate() may feed: its tokens, the end of a turn that is closed from outside, both ends.
  int64_t room_for_answer() const { return options.max_new_speak_tokens_per_chunk + 2; }
  void close_unit();
  int32_t choose(bool force);
  bool too_long(const std::vector<int32_t>& spoken, int32_t id) const;
  void write_input(const DuplexInput& input);

  SessionModel& model;
  Tokenizer tokenizer;
  DuplexOptions options;
  Protocol protocol;
  DuplexWindow window;
  std::vector<float> embeds;  // rows on their way into the model
};

// What prefill feeds, as text for schema().
void DuplexLogic::Impl::write_input(const DuplexInput& input) {
  const auto text = [&](int32_t id) { return tokenizer.decode({&id, 1}); };
  std::string& unit = schema.emplace_back(text(protocol.unit));
  for (const auto& image : input.images) {
    for (size_t s = 0; s < image.size(); ++s) {
      unit += text(s == 0 ? protocol.image : protocol.slice) +
              str("[img_embed_", rows_of(image[s].size()), "]") +
              text(s == 0 ? protocol.image_end : protocol.slice_end);
    }
  }
  if (!input.audio.empty()) unit += str("[audio_embed_", rows_of(input.audio.size()), "]");
  unit += tokenizer.decode(input.text_ids);
}

// The next token by the model, or listening if that is forced. An open turn must be finished before
// listening.
int32_t DuplexLogic::Impl::choose(bool force) {
  if (force) return protocol.listen;
  const int32_t id = sampler.sample(logits);
  return id == protocol.listen && !turn_ended ? protocol.tts_bos : id;
}

// Whether the unit's text with this token reaches the limit of characters.
bool DuplexLogic::Impl::too_long(const std::vector<int32_t>& spoken, int32_t id) const {
  if (options.max_unit_characters == 0) return false;
  std::vector<int32_t> ids = spoken;
  ids.push_back(id);
  return count_characters(tokenizer.decode(ids, true)) >= options.max_unit_characters;
}

void DuplexLogic::Impl::close_unit() {
  embeds.clear();
  append_ids(embeds, open->end);
  model.forward(embeds, -1);
  schema.back() += tokenizer.decode(open->end);
  open->unit.rows = model.length() - open->first_row;
  const bool listened = open->unit.is_listen;
  const int64_t rows = open->unit.rows;
  window.add(std::move(open->unit));
  open.reset();
  // Sliding while speaking garbles speech, so it waits for a listening unit unless the next unit would not
  // fit.
  const bool must = model.length() + 2 * rows > model.capacity();
  if (listened || must || options.reference_quirks) window.enforce();
}

DuplexLogic::DuplexLogic(SessionModel& model, Tokenizer tokenizer, const DuplexOptions& options)
    : impl_(std::make_unique<Impl>(model, std::move(tokenizer), options)) {}
DuplexLogic::~DuplexLogic() = default;

void DuplexLogic::prepare(const std::string& prefix, std::span<const float> reference,
                          const std::string& suffix, const std::string& previous_marker) {
  Impl& s = *impl_;
  s.model.reset();
  s.sampler.reset();
  s.open.reset();
  s.has_logits = false;
  s.turn_ended = true;
  s.is_broken = false;
  s.is_stopped = false;
  s.calls = 0;
  s.schema.clear();
  std::vector<float> rows;
  s.append_ids(rows, s.tokenizer.encode(prefix));
  if (!reference.empty()) s.append_rows(rows, reference, "the reference voice's rows");
  const int64_t prefix_rows = s.rows_of(rows.size());
  std::vector<int32_t> suffix_ids = s.tokenizer.encode(suffix);
  s.append_ids(rows, suffix_ids);
  if (!rows.empty()) s.model.forward(rows, -1);
  s.window.begin(prefix_rows, std::move(suffix_ids), s.tokenizer.encode(previous_marker));
}

void DuplexLogic::make_room(int64_t rows) {
  Impl& s = *impl_;
  // So that a unit is never left half done.
  const int64_t needed = rows + s.room_for_answer();
  s.window.make_room(needed);
  require(needed <= s.model.capacity() - s.model.length(), ErrorCode::context_full,
          "the context is full: ", s.model.length(), " of ", s.model.capacity(),
          " positions are used and this unit may need ", needed,
          "; use a larger n_ctx, or sliding_window_mode 'basic'");
}

void DuplexLogic::prefill(const DuplexInput& input) {
  Impl& s = *impl_;
  require(!s.is_stopped && !s.is_broken, ErrorCode::cancelled, "the session was ",
          s.is_stopped ? "stopped; call prepare() to start anew" : "interrupted; clear the break to go on");
  require(!s.open.has_value(), ErrorCode::invalid_argument, "the unit before is not finished: call ",
          s.open.has_value() && s.open->generated ? "finalize()" : "generate()", " first");
  require(!input.images.empty() || !input.audio.empty() || !input.text_ids.empty(),
          ErrorCode::invalid_argument, "a unit needs audio, pictures or text");
  const Protocol& p = s.protocol;
  std::vector<float>& rows = s.embeds;
  rows.clear();
  s.append_ids(rows, {&p.unit, 1});
  for (const auto& image : input.images) {
    require(!image.empty(), ErrorCode::invalid_argument, "a picture without rows");
    for (size_t i = 0; i < image.size(); ++i) {
      s.append_ids(rows, {i == 0 ? &p.image : &p.slice, 1});
      s.append_rows(rows, image[i], "a picture's rows");
      s.append_ids(rows, {i == 0 ? &p.image_end : &p.slice_end, 1});
    }
  }
  if (!input.audio.empty()) s.append_rows(rows, input.audio, "audio rows");
  // The decision is made at the last audio row, else at the end of the last picture, else at the last text
  // token.
  int64_t decision = s.rows_of(rows.size()) - 1;
  s.append_ids(rows, input.text_ids);
  if (input.images.empty() && input.audio.empty()) decision = s.rows_of(rows.size()) - 1;

  make_room(s.rows_of(rows.size()));
  const int64_t first_row = s.model.length();
  const SessionModel::Output out = s.model.forward(rows, decision);
  s.logits.assign(out.logits.begin(), out.logits.end());
  s.has_logits = true;
  s.open = OpenUnit{first_row, {}, {}, false};
  s.write_input(input);
}

DuplexResult DuplexLogic::generate(bool force_listen) {
  Impl& s = *impl_;
  const Protocol& p = s.protocol;
  DuplexResult result;
  if (s.is_stopped || s.is_broken) {
    result.end_of_turn = true;
    return result;
  }
  if (!s.has_logits || !s.open || s.open->generated) return result;
  require(s.room_for_answer() <= s.model.capacity() - s.model.length(), ErrorCode::context_full,
          "the context of ", s.model.capacity(), " positions has no room for ",
          s.options.max_new_speak_tokens_per_chunk, " tokens of an answer");
  s.has_logits = false;
  const bool force = force_listen || s.calls < s.options.force_listen_count;
  ++s.calls;
  if (force_listen && !s.turn_ended) {
    s.feed(p.turn_eos, false);
    result.ids.push_back(p.turn_eos);
    result.end_of_turn = true;
    s.turn_ended = true;
  }
  result.starts_turn = s.turn_ended;

  const int last = s.options.max_new_speak_tokens_per_chunk - 1;
  int32_t terminator = p.chunk_eos;
  for (int j = 0; j < last; ++j) {
    int32_t id = s.choose(force);
    if (j > 0 && !p.ends_unit(id) && s.too_long(result.spoken_ids, id)) id = p.chunk_eos;
    if (p.ends_unit(id)) {
      terminator = id;
      break;
    }
    // The last token before the limit decides nothing any more.
    const SessionModel::Output out = s.feed(id, j + 1 < last);
    s.logits.assign(out.logits.begin(), out.logits.end());
    result.ids.push_back(id);
    result.end_of_turn = id == p.turn_eos;
    s.turn_ended = result.end_of_turn;
    if (j > 0) {
      result.spoken_ids.push_back(id);
      result.spoken_hidden.insert(result.spoken_hidden.end(), out.hidden.begin(), out.hidden.end());
    }
  }
  // Only the first token makes a listening unit. After a finished turn the model may close the unit with
  // <|listen|>; the published code then forgets what was said.
  const bool spoke = !result.spoken_ids.empty() || (!result.ids.empty() && !force);
  result.is_listen = terminator == p.listen && (!spoke || s.options.reference_quirks);
  result.starts_turn = result.starts_turn && !result.is_listen;
  result.ids.push_back(terminator);
  result.ids.push_back(p.unit_end);
  if (result.is_listen) {
    result.end_of_turn = result.end_of_turn && force_listen;
  } else {
    result.text = s.tokenizer.decode(result.spoken_ids, true);
  }
  s.schema.back() += s.tokenizer.decode(std::span(result.ids).first(result.ids.size() - 2));
  s.open->generated = true;
  s.open->unit.is_listen = result.is_listen;
  s.open->unit.spoken_ids = result.spoken_ids;
  s.open->end = {terminator, p.unit_end};
  if (!s.options.deferred_finalize) s.close_unit();
  return result;
}

void DuplexLogic::finalize() {
  if (impl_->open && impl_->open->generated) impl_->close_unit();
}

void DuplexLogic::set_break(bool on) {
  impl_->is_broken = on;
}
void DuplexLogic::stop() {
  impl_->is_stopped = true;
}
bool DuplexLogic::turn_is_open() const {
  return !impl_->turn_ended;
}
const std::vector<DuplexUnit>& DuplexLogic::units() const {
  return impl_->window.units();
}
int64_t DuplexLogic::protected_rows() const {
  return impl_->window.protected_rows();
}
const std::vector<int32_t>& DuplexLogic::previous() const {
  return impl_->window.previous();
}
std::span<const float> DuplexLogic::logits() const {
  return impl_->logits;
}
const DuplexOptions& DuplexLogic::options() const {
  return impl_->options;
}
const std::vector<std::string>& DuplexLogic::unit_schemas() const {
  return impl_->schema;
}
std::string DuplexLogic::schema() const {
  std::string all;
  for (const std::string& unit : impl_->schema) all += unit;
  return all;
}

void DuplexLogic::set_sampling(const DuplexSamplerOptions& sampling) {
  impl_->options.sampling = sampling;
  impl_->sampler.set_options(sampling_of(impl_->options));
}
void DuplexLogic::set_max_new_speak_tokens(int count) {
  DuplexOptions changed = impl_->options;
  changed.max_new_speak_tokens_per_chunk = count;
  impl_->options = checked(changed);
}

std::shared_ptr<const DuplexLogic::Snapshot> DuplexLogic::save() const {
  return std::make_shared<const Snapshot>(*impl_, impl_->window.state());
}
void DuplexLogic::restore(const Snapshot& snapshot) {
  static_cast<DuplexProgress&>(*impl_) = snapshot.progress;
  impl_->window.restore(snapshot.window);
}

}  // namespace omni
