// text/unicode.h - UTF-8, character classes and NFC, by Unicode 16.0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace omni {

enum class CharClass : uint8_t { other = 0, letter = 1, number = 2, space = 3 };

// \p{L}, \p{N}, \s (White_Space), or none of them.
CharClass char_class(char32_t code);

struct Utf8Sequence {
  enum class State : uint8_t { whole, cut, invalid };
  State state;
  size_t size;  // bytes; of the longest valid beginning (at least 1) unless whole
};
// Looks at the sequence that starts at `at`; `cut` means that the text ends inside of it.
Utf8Sequence utf8_sequence(std::string_view text, size_t at);

// The position of the first byte that isn't UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);
// Reads one code point of valid UTF-8 and moves `at` behind it.
char32_t next_code(std::string_view text, size_t& at);
void append_utf8(std::string& out, char32_t code);

// Appends bytes as UTF-8, every invalid sequence as U+FFFD. Returns how many bytes were used: an unfinished
// sequence at the end stays unless `final`.
size_t append_lossy(std::string& out, std::string_view bytes, bool final);

// Whether valid UTF-8 may change under NFC; quick, and never wrong when it says no.
bool may_change_under_nfc(std::string_view text);
// Normalization form C of valid UTF-8.
std::string nfc(std::string_view text);

}  // namespace omni
