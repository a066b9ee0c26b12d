// token2wav/synthetic.h - files with random weights, in memory.
#pragma once

#include "omni/token2wav.h"

#include <memory>

#include "base/gguf_file.h"
#include "token2wav/flow.h"

namespace omni {

FlowFiles synthetic_flow(const SyntheticToken2Wav& sizes);
// The original vocoder, or the causal one.
std::shared_ptr<const GgufFile> synthetic_vocoder(const SyntheticToken2Wav& sizes, bool causal);

}  // namespace omni
