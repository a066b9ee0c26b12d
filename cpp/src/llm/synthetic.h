// llm/synthetic.h - a language model file with random weights, in memory.
#pragma once

#include "omni/language_model.h"

#include <memory>

#include "base/gguf_file.h"

namespace omni {

// Throws Error(invalid_argument) on an unknown type or impossible sizes.
std::shared_ptr<const GgufFile> synthetic_language_model(const SyntheticLanguageModel& sizes);

}  // namespace omni
