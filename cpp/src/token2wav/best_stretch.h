// token2wav/best_stretch.h - the part of a long recording that a voice is taken from.
#pragma once

#include <cstddef>
#include <span>

namespace omni {

struct Stretch {
  size_t first = 0;
  size_t n = 0;  // samples
};

// Of a recording longer than `seconds`: the stretch of at most so many with the least silence in it, the
// first of equals. It ends where it is quietest, at most a fifth earlier, so that no word is cut.
Stretch best_stretch(std::span<const float> samples, int rate, double seconds);

}  // namespace omni
