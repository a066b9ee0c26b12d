// token2wav/synthetic.h - files with random weights in the published sizes, in memory.
#pragma once

#include <memory>

#include "base/gguf_file.h"
#include "token2wav/flow.h"

namespace omni {

FlowFiles synthetic_flow();
// The original vocoder, or the causal one.
std::shared_ptr<const GgufFile> synthetic_vocoder(bool causal);

}  // namespace omni
