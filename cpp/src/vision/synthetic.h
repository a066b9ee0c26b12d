// vision/synthetic.h - a vision file with random weights, in memory.
#pragma once

#include "omni/vision_encoder.h"

#include <memory>

#include "base/gguf_file.h"

namespace omni {

// Throws Error(invalid_argument) on an unknown type or impossible sizes.
std::shared_ptr<const GgufFile> synthetic_vision_encoder(const SyntheticVisionEncoder& sizes);

}  // namespace omni
