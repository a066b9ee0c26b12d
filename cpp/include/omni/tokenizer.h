// The byte-level BPE tokenizer of the Qwen family, as GGUF files carry it.
#pragma once

#include "omni/export.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace omni {

class GgufFile;

// What a token is; the values are those of the key tokenizer.ggml.token_type.
enum class TokenType : int32_t {
  normal = 1,        // a result of byte-pair merging
  unknown = 2,       // as control
  control = 3,       // matched literally; a special token, dropped by decode(skip_special)
  user_defined = 4,  // matched literally; ordinary text when decoding, such as <think>
  unused = 5,        // padding of the table, never produced
  byte = 6,          // as normal
};

// The tables of a tokenizer. Tokens and merges are in the byte-level spelling (a blank is U+0120), tokens
// that are matched literally are plain UTF-8.
struct Vocabulary {
  std::vector<std::string> tokens;  // by id
  std::vector<int32_t> types;       // TokenType, one for each token
  std::vector<std::string> merges;  // "left right", most important first
  std::string pre = "qwen2";        // name of the pre-tokenizer; this one and no other is known
  std::optional<int32_t> bos, eos, pad;
  std::optional<std::vector<int32_t>> bad_token_ids;  // derived from the tokens if absent
};

// Immutable and cheap to copy; every method may be called from many threads.
class OMNI_API Tokenizer {
 public:
  // From the tokenizer.* keys of a GGUF file (the language model's, or one without tensors). Throws
  // Error(file) or Error(format) with the path and what is wrong.
  explicit Tokenizer(const std::string& gguf_path);
  explicit Tokenizer(const GgufFile& file);
  // `name` stands for the path in messages.
  explicit Tokenizer(const Vocabulary& vocabulary, const std::string& name = "vocabulary");

  // UTF-8 text to ids; nothing is added at the ends. Text between literal tokens is brought into NFC first.
  // With literal_tokens = false, control and user-defined tokens in the text are spelled out like any other
  // text: for text from sources that must not steer the model. Throws Error(invalid_argument) unless the
  // text is UTF-8.
  std::vector<int32_t> encode(std::string_view text, bool literal_tokens = true) const;
  // Ids to text, invalid UTF-8 as U+FFFD. Throws Error(invalid_argument) for ids outside of the vocabulary.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;
  // The bytes of one token; not always whole characters.
  std::string_view bytes(int32_t id) const;

  // The token with exactly this text, as decode() shows it.
  std::optional<int32_t> id_of(std::string_view text) const;
  // The same, but throws Error(format) if the vocabulary hasn't got it.
  int32_t required_id(std::string_view text) const;

  int32_t size() const;
  TokenType type(int32_t id) const;
  bool is_special(int32_t id) const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;
  // Ids that speech must never contain, ascending: the key omni.bad_token_ids, else those that decode to
  // text with parentheses, line breaks or incomplete characters, and five phrases that begin with a comma.
  const std::vector<int32_t>& bad_token_ids() const;
  // False if the merges can't build the vocabulary's tokens of several Han characters: the table was taken
  // from the package's reduced merges.txt instead of tokenizer.json, and Chinese text is encoded wrongly.
  bool has_multi_character_merges() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

// Turns ids into text one by one, for streaming: gives only whole characters, keeps a cut one for later.
// What push() and flush() return makes together what decode() returns.
class OMNI_API Detokenizer {
 public:
  explicit Detokenizer(Tokenizer tokenizer, bool skip_special = false);
  std::string push(int32_t id);
  // What is left, as U+FFFD; starts anew.
  std::string flush();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  std::string pending_;  // at most 3 bytes of an unfinished character
};

}  // namespace omni
