// text/tokenizer.cpp - the byte-level BPE tokenizer.
#include "omni/tokenizer.h"

#include "omni/error.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "base/gguf_file.h"
#include "text/bpe.h"
#include "text/literal_tokens.h"
#include "text/pretokenizer.h"
#include "text/unicode.h"

namespace omni {
namespace {

// Phrases that the published list of bad tokens names one by one; the others follow from a rule.
constexpr std::string_view kBadPhrases[] = {"，请", "，默认", "，并", "，则", "，在"};
constexpr std::string_view kBadCharacters[] = {"(", ")", "（", "）", "\r", "\n", "\xEF\xBF\xBD"};
// A frequent word of two Han characters; see has_multi_character_merges().
constexpr std::string_view kTwoHanCharacters = "你好";

// The printable character that stands for each byte in the vocabulary: itself where it is printable
// Latin-1, else one from U+0100 on, in the order of the bytes.
struct ByteAlphabet {
  std::array<char16_t, 256> code_of{};
  std::array<int16_t, 0x144> byte_of{};  // by code, -1 where there is none

  constexpr ByteAlphabet() {
    byte_of.fill(-1);
    char16_t extra = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const char16_t code = printable ? static_cast<char16_t>(byte) : extra++;
      code_of[static_cast<size_t>(byte)] = code;
      byte_of[code] = static_cast<int16_t>(byte);
    }
  }
};
constexpr ByteAlphabet kAlphabet;

std::string spelled(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) append_utf8(out, kAlphabet.code_of[static_cast<uint8_t>(byte)]);
  return out;
}

// Appends the bytes that a token of the vocabulary stands for; characters outside of the alphabet make it
// stand for itself.
void append_bytes(std::string& out, std::string_view token) {
  const size_t before = out.size();
  for (size_t at = 0; at < token.size();) {
    const char32_t code = next_code(token, at);
    if (code >= kAlphabet.byte_of.size() || kAlphabet.byte_of[code] < 0) {
      out.resize(before);
      out += token;
      return;
    }
    out.push_back(static_cast<char>(kAlphabet.byte_of[code]));
  }
}

bool is_literal(TokenType type) {
  return type == TokenType::control || type == TokenType::unknown || type == TokenType::user_defined;
}

// Views of a Vocabulary, or of a file's mapping.
struct Tables {
  std::vector<std::string_view> tokens;
  std::vector<int32_t> types;
  std::vector<std::string_view> merges;
  std::string_view pre;
  std::optional<int32_t> bos, eos, pad;
  std::optional<std::vector<int32_t>> bad;
};

std::optional<int32_t> optional_id(const GgufFile& file, std::string_view key) {
  if (!file.has(key)) return std::nullopt;
  // Out of range as int32 is out of range of every vocabulary: left for the check there.
  return static_cast<int32_t>(file.u32(key));
}

Tables tables_of(const GgufFile& file) {
  const std::string_view model = file.text("tokenizer.ggml.model");
  require(model == "gpt2", ErrorCode::unsupported, file.path(), ": the tokenizer is of type \"", model,
          "\"; only byte-level BPE (\"gpt2\") is supported");
  Tables tables;
  tables.tokens = file.texts("tokenizer.ggml.tokens");
  tables.types = file.i32s("tokenizer.ggml.token_type");
  tables.merges = file.texts("tokenizer.ggml.merges");
  tables.pre = file.text("tokenizer.ggml.pre");
  tables.bos = optional_id(file, "tokenizer.ggml.bos_token_id");
  tables.eos = optional_id(file, "tokenizer.ggml.eos_token_id");
  tables.pad = optional_id(file, "tokenizer.ggml.padding_token_id");
  if (file.has("omni.bad_token_ids")) tables.bad = file.i32s("omni.bad_token_ids");
  return tables;
}

Tables tables_of(const Vocabulary& v) {
  return {{v.tokens.begin(), v.tokens.end()},
          v.types,
          {v.merges.begin(), v.merges.end()},
          v.pre,
          v.bos,
          v.eos,
          v.pad,
          v.bad_token_ids};
}

}  // namespace

struct Tokenizer::Impl {
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };

  std::string name;
  std::string bytes;           // of all tokens, one behind the other
  std::vector<size_t> begins;  // into bytes, size() + 1
  std::vector<TokenType> types;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids;  // by spelling in the vocabulary
  std::array<int32_t, 256> byte_ids{};                                  // the token of a single byte
  MergeTable merges;
  LiteralTokens literals;
  std::optional<int32_t> bos, eos, pad;
  std::vector<int32_t> bad;

  Impl(Tables&& tables, std::string source);

  size_t size() const { return types.size(); }
  std::string_view bytes_of(size_t id) const {
    return std::string_view(bytes).substr(begins[id], begins[id + 1] - begins[id]);
  }
  size_t checked(int32_t id) const {
    require(id >= 0 && static_cast<size_t>(id) < size(), ErrorCode::invalid_argument, "token id ", id,
            " is outside of the vocabulary of ", size(), " tokens");
    return static_cast<size_t>(id);
  }
  std::optional<int32_t> find(std::string_view spelling) const {
    const auto found = ids.find(spelling);
    return found == ids.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<int32_t> id_of(std::string_view text) const;
  void encode_plain(std::string_view text, BytePairMerger& merger, std::vector<int32_t>& symbols,
                    std::vector<int32_t>& out) const;

 private:
  void add_tokens(const Tables& tables);
  void add_merges(const std::vector<std::string_view>& lines);
  void check_ids(const Tables& tables) const;
  std::vector<int32_t> derive_bad() const;
};

Tokenizer::Impl::Impl(Tables&& tables, std::string source)
    : name(std::move(source)),
      merges(tables.merges.size()),
      bos(tables.bos),
      eos(tables.eos),
      pad(tables.pad) {
  require(tables.pre == "qwen2", ErrorCode::unsupported, name, ": the pre-tokenizer \"", tables.pre,
          "\" is unknown; this engine has \"qwen2\"");
  require(!tables.tokens.empty(), ErrorCode::format, name, ": the vocabulary is empty");
  require(tables.types.size() == tables.tokens.size(), ErrorCode::format, name, ": ", tables.tokens.size(),
          " tokens, but ", tables.types.size(), " token types");
  add_tokens(tables);
  add_merges(tables.merges);
  check_ids(tables);
  if (tables.bad) {
    bad = std::move(*tables.bad);
    std::sort(bad.begin(), bad.end());
    bad.erase(std::unique(bad.begin(), bad.end()), bad.end());
  } else {
    bad = derive_bad();
  }
}

void Tokenizer::Impl::add_tokens(const Tables& tables) {
  const size_t count = tables.tokens.size();
  begins.reserve(count + 1);
  types.reserve(count);
  ids.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string_view token = tables.tokens[i];
    const int32_t type = tables.types[i];
    const auto id = static_cast<int32_t>(i);
    require(type >= 1 && type <= 6, ErrorCode::format, name, ": token ", i, " has the unknown type ", type);
    require(find_invalid_utf8(token) == std::string_view::npos, ErrorCode::format, name, ": token ", i,
            " is not UTF-8");
    const auto [place, added] = ids.try_emplace(std::string(token), id);
    require(added, ErrorCode::format, name, ": tokens ", place->second, " and ", i, " are the same, \"",
            token, "\"");
    types.push_back(static_cast<TokenType>(type));
    begins.push_back(bytes.size());
    append_bytes(bytes, token);
    if (!is_literal(types.back())) continue;
    require(!token.empty() && token.size() <= LiteralTokens::kMaxBytes, ErrorCode::format, name, ": token ",
            i, " is to be matched literally, but has ", token.size(), " bytes; 1 to ",
            LiteralTokens::kMaxBytes, " are possible");
    literals.add(token, id);
  }
  begins.push_back(bytes.size());
  for (size_t byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    const auto id = find(spelled({&text, 1}));
    require(id.has_value(), ErrorCode::format, name, ": the vocabulary has no token for the byte ", byte,
            "; it is not one of a byte-level tokenizer");
    byte_ids[byte] = *id;
  }
}

void Tokenizer::Impl::add_merges(const std::vector<std::string_view>& lines) {
  std::string joined;
  for (size_t rank = 0; rank < lines.size(); ++rank) {
    const std::string_view line = lines[rank];
    const size_t blank = line.find(' ');
    require(blank != std::string_view::npos && line.find(' ', blank + 1) == std::string_view::npos,
            ErrorCode::format, name, ": merge ", rank, ", \"", line,
            "\", is not two tokens with a blank between");
    const auto known = [&](std::string_view token) {
      const auto id = find(token);
      require(id.has_value(), ErrorCode::format, name, ": merge ", rank, ", \"", line,
              "\", needs the token \"", token, "\", which the vocabulary has not");
      return *id;
    };
    joined.assign(line.substr(0, blank)).append(line.substr(blank + 1));
    const int32_t left = known(line.substr(0, blank)), right = known(line.substr(blank + 1));
    require(merges.insert(left, right, static_cast<uint32_t>(rank), known(joined)), ErrorCode::format, name,
            ": merge ", rank, ", \"", line, "\", repeats an earlier one");
  }
}

void Tokenizer::Impl::check_ids(const Tables& tables) const {
  const auto check = [&](int32_t id, const char* what) {
    require(id >= 0 && static_cast<size_t>(id) < size(), ErrorCode::format, name, ": the ", what, " id ", id,
            " is outside of the vocabulary of ", size(), " tokens");
  };
  if (bos) check(*bos, "bos");
  if (eos) check(*eos, "eos");
  if (pad) check(*pad, "padding");
  if (tables.bad) {
    for (const int32_t id : *tables.bad) check(id, "bad token");
  }
}

std::vector<int32_t> Tokenizer::Impl::derive_bad() const {
  std::vector<int32_t> out;
  std::string text;
  for (size_t id = 0; id < size(); ++id) {
    if (types[id] != TokenType::normal) continue;
    text.clear();
    append_lossy(text, bytes_of(id), true);
    const auto holds = [&](std::string_view part) { return text.find(part) != std::string::npos; };
    if (std::any_of(std::begin(kBadCharacters), std::end(kBadCharacters), holds) ||
        std::find(std::begin(kBadPhrases), std::end(kBadPhrases), text) != std::end(kBadPhrases)) {
      out.push_back(static_cast<int32_t>(id));
    }
  }
  return out;
}

std::optional<int32_t> Tokenizer::Impl::id_of(std::string_view text) const {
  if (const auto id = find(text); id && bytes_of(static_cast<size_t>(*id)) == text) return id;
  return find(spelled(text));
}

void Tokenizer::Impl::encode_plain(std::string_view text, BytePairMerger& merger,
                                   std::vector<int32_t>& symbols, std::vector<int32_t>& out) const {
  std::string normalized;
  if (may_change_under_nfc(text)) {
    normalized = nfc(text);
    text = normalized;
  }
  while (!text.empty()) {
    const std::string_view piece = first_piece(text);
    text.remove_prefix(piece.size());
    symbols.clear();
    for (const char byte : piece) symbols.push_back(byte_ids[static_cast<uint8_t>(byte)]);
    merger.merge(symbols);
    out.insert(out.end(), symbols.begin(), symbols.end());
  }
}

Tokenizer::Tokenizer(const std::string& gguf_path) : Tokenizer(GgufFile(gguf_path)) {}
Tokenizer::Tokenizer(const GgufFile& file) : impl_(std::make_shared<Impl>(tables_of(file), file.path())) {}
Tokenizer::Tokenizer(const Vocabulary& vocabulary, const std::string& name)
    : impl_(std::make_shared<Impl>(tables_of(vocabulary), name)) {}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool literal_tokens) const {
  constexpr size_t kMaxBytes = size_t{1} << 30;  // positions are 32 bits wide
  require(text.size() <= kMaxBytes, ErrorCode::invalid_argument, "a text of ", text.size(),
          " bytes is too long to encode at once; cut it into parts below 1 GiB");
  const size_t invalid = find_invalid_utf8(text);
  require(invalid == std::string_view::npos, ErrorCode::invalid_argument, "the text is not UTF-8 at byte ",
          invalid);

  std::vector<int32_t> out, symbols;
  BytePairMerger merger(impl_->merges);
  for (size_t at = 0; at < text.size();) {
    const auto match = literal_tokens ? impl_->literals.find(text, at) : LiteralTokens::Match();
    const bool found = match.id >= 0;
    impl_->encode_plain(text.substr(at, found ? match.begin - at : text.size() - at), merger, symbols, out);
    if (!found) break;
    out.push_back(match.id);
    at = match.end;
  }
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string raw;
  for (const int32_t id : ids) {
    const size_t index = impl_->checked(id);
    if (!(skip_special && is_special(id))) raw += impl_->bytes_of(index);
  }
  std::string out;
  append_lossy(out, raw, true);
  return out;
}

std::string_view Tokenizer::bytes(int32_t id) const {
  return impl_->bytes_of(impl_->checked(id));
}

std::optional<int32_t> Tokenizer::id_of(std::string_view text) const {
  return impl_->id_of(text);
}

int32_t Tokenizer::required_id(std::string_view text) const {
  const auto id = id_of(text);
  require(id.has_value(), ErrorCode::format, impl_->name, ": the vocabulary has no token \"", text,
          "\"; the file is not of a model that can do this");
  return *id;
}

int32_t Tokenizer::size() const {
  return static_cast<int32_t>(impl_->size());
}
TokenType Tokenizer::type(int32_t id) const {
  return impl_->types[impl_->checked(id)];
}
bool Tokenizer::is_special(int32_t id) const {
  const TokenType t = type(id);
  return t == TokenType::control || t == TokenType::unknown;
}
std::optional<int32_t> Tokenizer::bos_id() const {
  return impl_->bos;
}
std::optional<int32_t> Tokenizer::eos_id() const {
  return impl_->eos;
}
std::optional<int32_t> Tokenizer::pad_id() const {
  return impl_->pad;
}
const std::vector<int32_t>& Tokenizer::bad_token_ids() const {
  return impl_->bad;
}

bool Tokenizer::has_multi_character_merges() const {
  return !id_of(kTwoHanCharacters) || encode(kTwoHanCharacters).size() == 1;
}

Detokenizer::Detokenizer(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string Detokenizer::push(int32_t id) {
  const std::string_view bytes = tokenizer_.bytes(id);
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  pending_ += bytes;
  std::string out;
  pending_.erase(0, append_lossy(out, pending_, false));
  return out;
}

std::string Detokenizer::flush() {
  std::string out;
  append_lossy(out, pending_, true);
  pending_.clear();
  return out;
}

}  // namespace omni
