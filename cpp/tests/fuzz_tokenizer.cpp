// tests/fuzz_tokenizer.cpp - hostile texts for a small vocabulary, and hostile vocabularies.
#include "omni/error.h"
#include "omni/tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/unicode.h"

namespace {

void expect(bool condition) {
  if (!condition) std::abort();
}

// The 256 bytes in their spelling, some merges and some literal tokens; `lines` adds tokens and merges.
omni::Vocabulary vocabulary(std::string_view lines) {
  omni::Vocabulary v;
  for (char32_t code = 0, extra = 0x100; code < 256; ++code) {
    const bool printable = (code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code != 0xAD);
    omni::append_utf8(v.tokens.emplace_back(), printable ? code : extra++);
  }
  for (const char* token : {"aa", "aaa", "aaaa", "ab", "Ġa"}) v.tokens.emplace_back(token);
  v.merges = {"a a", "aa aa", "aa a", "a b", "Ġ a"};
  v.types.assign(v.tokens.size(), 1);
  for (const char* token : {"<unk>", "<|a|>", "<|a|><|b|>", "é€"}) {
    v.tokens.emplace_back(token);
    v.types.push_back(v.types.size() % 2 == 0 ? 3 : 4);
  }
  while (!lines.empty()) {
    const std::string_view line = lines.substr(0, lines.find('\n'));
    lines.remove_prefix(std::min(lines.size(), line.size() + 1));
    if (line.find(' ') != std::string_view::npos) {
      v.merges.emplace_back(line);
    } else if (!line.empty()) {
      v.types.push_back(line.front() & 7);
      v.tokens.emplace_back(line.substr(1));
    }
  }
  return v;
}

void check(const omni::Tokenizer& tokenizer, std::string_view text) {
  if (omni::find_invalid_utf8(text) != std::string_view::npos) {
    try {
      tokenizer.encode(text);
      std::abort();
    } catch (const omni::Error&) {
    }
    return;
  }
  expect(tokenizer.decode(tokenizer.encode(text, false)) == omni::nfc(text));
  if (!omni::may_change_under_nfc(text)) expect(omni::nfc(text) == text);
  for (const bool skip : {false, true}) {
    const auto ids = tokenizer.encode(text);
    omni::Detokenizer stream(tokenizer, skip);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    expect(streamed + stream.flush() == tokenizer.decode(ids, skip));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  static const omni::Tokenizer tokenizer(vocabulary({}));
  check(tokenizer, input);
  // Up to a NUL byte the input is a vocabulary, behind it the text for it.
  const size_t end = input.find('\0');
  if (end == std::string_view::npos) return 0;
  try {
    check(omni::Tokenizer(vocabulary(input.substr(0, end))), input.substr(end + 1));
  } catch (const omni::Error&) {  // a vocabulary that is refused
  }
  return 0;
}
