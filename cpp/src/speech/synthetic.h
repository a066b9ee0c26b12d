// speech/synthetic.h - a speech model file with random weights, in memory.
#pragma once

#include "omni/speech.h"

#include <memory>

#include "base/gguf_file.h"

namespace omni {

// Throws Error(invalid_argument) on an unknown type or impossible sizes.
std::shared_ptr<const GgufFile> synthetic_speech_model(const SyntheticSpeechModel& sizes);

}  // namespace omni
