// text/pretokenizer.h - cuts text into the pieces that byte-pair merges may not cross.
#pragma once

#include <string_view>

namespace omni {

// The first piece (never empty) of non-empty valid UTF-8, by the pattern that llama.cpp calls "qwen2":
//   (?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N} | ?[^\s\p{L}\p{N}]+[\r\n]*
//   | \s*[\r\n]+ | \s+(?!\S) | \s+
// (alternatives in order, the blanks around "|" are not part of them, except the one before "?").
std::string_view first_piece(std::string_view text);

}  // namespace omni
