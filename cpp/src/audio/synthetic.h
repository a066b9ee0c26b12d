// audio/synthetic.h - an audio file with random weights, in memory.
#pragma once

#include "omni/audio_encoder.h"

#include <memory>

#include "base/gguf_file.h"

namespace omni {

// Throws Error(invalid_argument) on an unknown type or impossible sizes.
std::shared_ptr<const GgufFile> synthetic_audio_encoder(const SyntheticAudioEncoder& sizes);

}  // namespace omni
