// Full duplex as pure logic: what is fed to the language model in each unit of one second, when the model
// listens and when it speaks, and what leaves the context when it grows too long. No threads, no clock, no
// networks.
#pragma once

#include "omni/export.h"
#include "omni/sampler.h"
#include "omni/tokenizer.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace omni {

// What a session needs of a language model and its cache. Spans that come back are valid until the next call.
class OMNI_API SessionModel {
 public:
  struct Output {
    std::span<const float> logits;  // [n_vocab] of the row asked for; empty if none was
    std::span<const float> hidden;  // [width] of the last row
  };
  virtual ~SessionModel() = default;
  virtual int64_t width() const = 0;
  virtual int32_t n_vocab() const = 0;
  virtual int64_t length() const = 0;    // rows in the cache
  virtual int64_t capacity() const = 0;  // rows it has room for
  virtual void embed(std::span<const int32_t> ids, std::span<float> out) const = 0;
  // Appends embeds [n, width] and computes them. `logits_row` in [0, n), or -1 for none. All or nothing: if
  // it throws, the cache is as before.
  virtual Output forward(std::span<const float> embeds, int64_t logits_row) = 0;
  virtual void reset() = 0;
  // As KvCache: rows stay compact, keys turn with their positions.
  virtual void truncate(int64_t length) = 0;
  virtual void extend(int64_t length) = 0;
  virtual void remove(int64_t first, int64_t count) = 0;
  virtual void move(int64_t first, int64_t count, int64_t target) = 0;
};

// How a context that grows too long is shortened.
enum class WindowMode {
  off,      // not at all; when the cache is full, prefill fails
  basic,    // the oldest units go
  context,  // the oldest units go, what they said stays as text in the system prompt
};

// Names and defaults are those of the published API.
struct DuplexOptions {
  int max_new_speak_tokens_per_chunk = 20;  // positions of a speaking unit, its end included
  int force_listen_count = 0;               // so many units listen at first, whatever the model wants
  WindowMode sliding_window_mode = WindowMode::off;
  int64_t basic_window_high_tokens = 8000;  // above this many rows units go ...
  int64_t basic_window_low_tokens = 6000;   // ... until at most so many are left
  int64_t context_previous_max_tokens = 500;
  int64_t context_max_units = 24;
  // A unit ends before its text would have so many characters (0: no limit); the public server has 28.
  int max_unit_characters = 0;
  // The end of a unit is fed by finalize(), so that a result can be used before; the public server does so.
  bool deferred_finalize = false;
  // Do what the published code does even where it is at fault: the window also slides while speaking, a unit
  // that ends its turn and then listens loses its text, listen options act on <|im_end|>.
  bool reference_quirks = false;
  DuplexSamplerOptions sampling;

  // The defaults of a model: those above, but for what its language model file says about the window. A small
  // model is made for a short context and states it. Throws Error(io) and Error(format).
  static OMNI_API DuplexOptions of_model(const std::string& language_model_path);
};

// Mode by its name: off, basic, context. Throws Error(invalid_argument) for any other.
OMNI_API WindowMode parse_window_mode(std::string_view name);

// What is seen and heard in one unit, as rows of embeddings. Everything may be absent, but not all of it.
struct DuplexInput {
  // Each picture: its overview and then its slices, [rows, width] each.
  std::vector<std::vector<std::span<const float>>> images;
  std::span<const float> audio;   // [rows, width]
  std::vector<int32_t> text_ids;  // fed last; the first decision is still made at the last audio row
};

struct DuplexResult {
  bool is_listen = true;
  bool end_of_turn = false;
  bool starts_turn = false;          // the first unit of a spoken turn
  std::string text;                  // new text of this unit, special tokens left out
  std::vector<int32_t> spoken_ids;   // what speech is made of, special tokens included
  std::vector<float> spoken_hidden;  // [spoken_ids, width]: hidden state of each token as it was fed
  std::vector<int32_t> ids;          // everything fed since the prefill, the ends of turn and unit included
};

// Rows of the cache that belong to one unit.
struct DuplexUnit {
  int64_t rows = 0;
  bool is_listen = true;
  std::vector<int32_t> spoken_ids;
};

class OMNI_API DuplexLogic {
 public:
  // The model must outlive the object. Throws Error(format) if the tokenizer lacks a token of the protocol.
  DuplexLogic(SessionModel& model, Tokenizer tokenizer, const DuplexOptions& options = {});
  ~DuplexLogic();
  DuplexLogic(const DuplexLogic&) = delete;
  DuplexLogic& operator=(const DuplexLogic&) = delete;

  // Starts anew: feeds `prefix`, the rows of the reference voice [n, width] if any, and `suffix`.
  // `previous_marker` goes before what is kept of dropped units in context mode.
  void prepare(const std::string& prefix, std::span<const float> reference, const std::string& suffix,
               const std::string& previous_marker = "\n\nprevious: ");

  // Makes sure that a unit of so many rows fits, its answer included; the window may drop units for it.
  // prefill() does so, too. Throws Error(context_full).
  void make_room(int64_t rows);

  // Feeds what one unit saw and heard. Checked first, fed as a whole. Throws Error(invalid_argument) for an
  // empty input, for wrong sizes, and if the unit before was not generated; Error(cancelled) after stop() or
  // set_break(); Error(context_full).
  void prefill(const DuplexInput& input);

  // Decides and, if the model speaks, generates this unit's text. Without a prefill, and after stop() or
  // set_break(), the result is to listen and nothing is fed. With `force_listen` the unit listens and an open
  // turn is closed.
  DuplexResult generate(bool force_listen = false);
  // Feeds the end of the unit if generate() left it (deferred_finalize).
  void finalize();

  // Interruption from outside: until cleared, prefill fails and generate listens. The turn goes on
  // afterwards.
  void set_break(bool on);
  void stop();  // until prepare()

  bool turn_is_open() const;  // the model has begun to speak and not ended its turn
  const std::vector<DuplexUnit>& units() const;
  int64_t protected_rows() const;                // system prompt, never dropped
  const std::vector<int32_t>& previous() const;  // marker and text kept of dropped units
  const DuplexOptions& options() const;
  // What the last decision was made of, or the next one will be, for tests. [n_vocab], or nothing.
  std::span<const float> logits() const;
  void set_sampling(const DuplexSamplerOptions& sampling);
  void set_max_new_speak_tokens(int count);

  // What the session remembers beside the model's cache, random numbers included. restore() expects the cache
  // as it was when save() was called.
  class Snapshot;
  std::shared_ptr<const Snapshot> save() const;
  void restore(const Snapshot& snapshot);

  // The session as text, with [img_embed_64] and [audio_embed_10] for embeddings: the parts of units, from
  // <unit> to </unit>.
  const std::vector<std::string>& unit_schemas() const;
  std::string schema() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
