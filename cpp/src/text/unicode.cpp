// text/unicode.cpp - UTF-8, character classes and NFC.
#include "text/unicode.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "text/unicode_tables.h"

namespace omni {
namespace {

using namespace unicode_tables;

// Hangul syllables compose by arithmetic (The Unicode Standard, section 3.12).
constexpr char32_t kSyllableBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTailBase = 0x11A7;
constexpr uint32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

// The value of a step function (code << bits | value, ascending) at `code`.
template <size_t N>
uint32_t step_value(const uint32_t (&steps)[N], char32_t code, int bits) {
  const uint32_t mask = (1u << bits) - 1;
  const auto* after =
      std::upper_bound(std::begin(steps), std::end(steps), static_cast<uint32_t>(code) << bits | mask);
  return *std::prev(after) & mask;
}

uint32_t combining_class(char32_t code) {
  return code < 0x300 ? 0 : step_value(kCombiningSteps, code, 8);
}

const Decomposition* find_decomposition(char32_t code) {
  const auto* found = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), code,
                                       [](const Decomposition& d, char32_t c) { return d.code < c; });
  return found != std::end(kDecompositions) && found->code == code ? found : nullptr;
}

void decompose(std::vector<char32_t>& out, char32_t code) {
  if (const uint32_t syllable = static_cast<uint32_t>(code) - kSyllableBase; syllable < kSyllables) {
    out.push_back(kLeadBase + syllable / (kVowels * kTails));
    out.push_back(kVowelBase + syllable % (kVowels * kTails) / kTails);
    if (const uint32_t tail = syllable % kTails) out.push_back(kTailBase + tail);
    return;
  }
  // Only the first part can decompose further, so the second parts come out in reverse.
  std::vector<char32_t>::size_type tail_parts = 0;
  char32_t parts[8];
  for (const Decomposition* d = find_decomposition(code); d != nullptr; d = find_decomposition(code)) {
    code = d->first;
    if (d->second != 0 && tail_parts < std::size(parts)) parts[tail_parts++] = d->second;
  }
  out.push_back(code);
  while (tail_parts > 0) out.push_back(parts[--tail_parts]);
}

// The composed character, or 0.
char32_t compose(char32_t first, char32_t second) {
  if (first - kLeadBase < kLeads && second - kVowelBase < kVowels) {
    return kSyllableBase + ((first - kLeadBase) * kVowels + (second - kVowelBase)) * kTails;
  }
  if (first - kSyllableBase < kSyllables && (first - kSyllableBase) % kTails == 0 &&
      second - (kTailBase + 1) < kTails - 1) {
    return first + (second - kTailBase);
  }
  const auto wanted = std::pair<uint32_t, uint32_t>(first, second);
  const auto* found = std::lower_bound(
      std::begin(kCompositions), std::end(kCompositions), wanted, [](uint16_t index, const auto& pair) {
        return std::pair(kDecompositions[index].first, kDecompositions[index].second) < pair;
      });
  if (found == std::end(kCompositions)) return 0;
  const Decomposition& d = kDecompositions[*found];
  return d.first == first && d.second == second ? d.code : 0;
}

// Puts every run of combining characters into the order of their classes.
void reorder(std::vector<char32_t>& codes) {
  std::vector<std::pair<uint32_t, char32_t>> run;
  for (size_t i = 0; i < codes.size();) {
    run.clear();
    size_t end = i;
    for (; end < codes.size(); ++end) {
      const uint32_t combining = combining_class(codes[end]);
      if (combining == 0) break;
      run.emplace_back(combining, codes[end]);
    }
    std::stable_sort(run.begin(), run.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t k = 0; k < run.size(); ++k) codes[i + k] = run[k].second;
    i = end + 1;
  }
}

void compose_all(std::vector<char32_t>& codes) {
  constexpr size_t kNone = SIZE_MAX;
  size_t starter = kNone, out = 0;
  uint32_t last_class = 0;  // of the character before, if it stayed
  for (size_t i = 0; i < codes.size(); ++i) {
    const char32_t code = codes[i];
    const uint32_t combining = combining_class(code);
    // Blocked if something of the same or a higher class, or another starter, lies between.
    const bool adjacent = starter != kNone && out == starter + 1;
    if (starter != kNone && (adjacent || (last_class != 0 && last_class < combining))) {
      if (const char32_t composed = compose(codes[starter], code); composed != 0) {
        codes[starter] = composed;
        continue;
      }
    }
    if (combining == 0) starter = out;
    last_class = combining;
    codes[out++] = code;
  }
  codes.resize(out);
}

}  // namespace

CharClass char_class(char32_t code) {
  return static_cast<CharClass>(step_value(kClassSteps, code, 2));
}

Utf8Sequence utf8_sequence(std::string_view text, size_t at) {
  using State = Utf8Sequence::State;
  const auto lead = static_cast<uint8_t>(text[at]);
  if (lead < 0x80) return {State::whole, 1};
  if (lead < 0xC2 || lead > 0xF4) return {State::invalid, 1};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and everything above U+10FFFF.
  uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t k = 1; k < size; ++k) {
    if (at + k >= text.size()) return {State::cut, k};
    const auto byte = static_cast<uint8_t>(text[at + k]);
    if (byte < low || byte > high) return {State::invalid, k};
    low = 0x80;
    high = 0xBF;
  }
  return {State::whole, size};
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Sequence sequence = utf8_sequence(text, at);
    if (sequence.state != Utf8Sequence::State::whole) return at;
    at += sequence.size;
  }
  return std::string_view::npos;
}

char32_t next_code(std::string_view text, size_t& at) {
  const auto byte = [&](size_t k) { return static_cast<char32_t>(static_cast<uint8_t>(text[at + k])); };
  const char32_t lead = byte(0);
  char32_t code = lead;
  size_t size = 1;
  if (lead >= 0xF0) {
    code = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    size = 4;
  } else if (lead >= 0xE0) {
    code = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    size = 3;
  } else if (lead >= 0x80) {
    code = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    size = 2;
  }
  at += size;
  return code;
}

void append_utf8(std::string& out, char32_t code) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

size_t append_lossy(std::string& out, std::string_view bytes, bool final) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Sequence sequence = utf8_sequence(bytes, at);
    if (sequence.state == Utf8Sequence::State::cut && !final) break;
    if (sequence.state == Utf8Sequence::State::whole) {
      out.append(bytes.substr(at, sequence.size));
    } else {
      append_utf8(out, 0xFFFD);
    }
    at += sequence.size;
  }
  return at;
}

bool may_change_under_nfc(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const char32_t code = next_code(text, at);
    if (code >= 0x300 && step_value(kUnsettledSteps, code, 1) != 0) return true;
  }
  return false;
}

std::string nfc(std::string_view text) {
  std::vector<char32_t> codes;
  codes.reserve(text.size());
  for (size_t at = 0; at < text.size();) decompose(codes, next_code(text, at));
  reorder(codes);
  compose_all(codes);
  std::string out;
  out.reserve(text.size());
  for (const char32_t code : codes) append_utf8(out, code);
  return out;
}

}  // namespace omni
