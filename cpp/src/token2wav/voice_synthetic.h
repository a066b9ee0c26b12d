// token2wav/voice_synthetic.h - both networks of voice cloning at their published sizes, with random weights.
#pragma once

#include <memory>

#include "base/gguf_file.h"

namespace omni {

std::shared_ptr<const GgufFile> synthetic_speech_tokenizer();
std::shared_ptr<const GgufFile> synthetic_speaker_encoder();

}  // namespace omni
