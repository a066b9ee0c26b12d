// session/duplex_stages.cpp - what the stages hand to each other.
#include "omni/duplex_stages.h"

namespace omni {

DuplexInput DuplexEncodedUnit::view() const {
  DuplexInput input;
  for (const auto& image : images) input.images.emplace_back(image.begin(), image.end());
  input.audio = audio;
  input.text_ids = text_ids;
  return input;
}

}  // namespace omni
