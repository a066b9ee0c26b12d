// kernels/attention.h - attention without masks, for encoders.
#pragma once

#include "ggml.h"

#include "base/device.h"

namespace omni {

// softmax(q k^T / sqrt(head_dim)) v for every head and batch. q [width, n, batch], k and v [width, m, batch]
// F32, contiguous, heads side by side in a row; the batch of q may be 1. -> [width, n * batch of k],
// contiguous. A kernel of ours on the host processor, ggml's flash attention elsewhere.
ggml_tensor* attend(ggml_context* ctx, const Device& device, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v,
                    int64_t n_heads);

}  // namespace omni
