// text/pretokenizer.cpp - the pattern "qwen2" as code.
#include "text/pretokenizer.h"

#include "text/unicode.h"

namespace omni {
namespace {

struct Char {
  char32_t code = 0;
  CharClass cls = CharClass::other;
  size_t end = 0;  // position behind it; 0 at the end of the text

  bool is(CharClass wanted) const { return end != 0 && cls == wanted; }
  bool newline() const { return code == '\r' || code == '\n'; }
};

Char char_at(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  Char c;
  c.code = next_code(text, at);
  c.cls = char_class(c.code);
  c.end = at;
  return c;
}

// The position behind the run of `cls` that starts at `at`.
size_t run_end(std::string_view text, size_t at, CharClass cls) {
  for (Char c = char_at(text, at); c.is(cls); c = char_at(text, at)) at = c.end;
  return at;
}

// Lower case for the letters of the contractions. Under Unicode folding U+017F is an s too.
char32_t folded(char32_t code) {
  if (code >= 'A' && code <= 'Z') return code + ('a' - 'A');
  return code == 0x17F ? U's' : code;
}

// The end of 's 't 're 've 'm 'll 'd at the start of the text, or 0.
size_t contraction_end(std::string_view text) {
  if (text[0] != '\'') return 0;
  const Char first = char_at(text, 1);
  const Char second = char_at(text, first.end);
  switch (first.end == 0 ? 0 : folded(first.code)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return first.end;
    case 'r':
    case 'v':
      return second.end != 0 && folded(second.code) == 'e' ? second.end : 0;
    case 'l':
      return second.end != 0 && folded(second.code) == 'l' ? second.end : 0;
    default:
      return 0;
  }
}

// \s*[\r\n]+ | \s+(?!\S) | \s+ : up to the last line break of the run; without one the whole run at the end
// of the text, else all but its last character, which goes with the next piece; a lone one stays alone.
size_t space_end(std::string_view text) {
  size_t at = 0, before_last = 0, behind_newline = 0;
  for (Char c = char_at(text, 0); c.is(CharClass::space); c = char_at(text, at)) {
    before_last = at;
    at = c.end;
    if (c.newline()) behind_newline = at;
  }
  if (behind_newline != 0) return behind_newline;
  return at == text.size() || before_last == 0 ? at : before_last;
}

}  // namespace

std::string_view first_piece(std::string_view text) {
  if (const size_t end = contraction_end(text); end != 0) return text.substr(0, end);

  const Char first = char_at(text, 0);
  if (first.cls == CharClass::letter) return text.substr(0, run_end(text, first.end, CharClass::letter));
  if (first.cls == CharClass::number) return text.substr(0, first.end);

  const Char second = char_at(text, first.end);
  if (!first.newline() && second.is(CharClass::letter)) {
    return text.substr(0, run_end(text, second.end, CharClass::letter));
  }
  const bool blank_then_other = first.code == ' ' && second.is(CharClass::other);
  if (first.cls == CharClass::other || blank_then_other) {
    size_t end = run_end(text, first.end, CharClass::other);
    while (end < text.size() && (text[end] == '\r' || text[end] == '\n')) ++end;
    return text.substr(0, end);
  }
  return text.substr(0, space_end(text));
}

}  // namespace omni
