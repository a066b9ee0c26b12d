// kernels/gelu.h - both forms of GELU, in full float precision.
#pragma once

#include "ggml.h"

#include "base/device.h"

namespace omni {

// 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) of z = x + bias. x [n, rows] F32, freshly computed: it may
// be overwritten; bias [n] F32. ggml's own operator looks values up in a half-precision table on the host
// processor, so a kernel of ours works there.
ggml_tensor* gelu_tanh(ggml_context* ctx, const Device& device, ggml_tensor* x, ggml_tensor* bias);

// 0.5 z (1 + erf(z / sqrt(2))), under the same rules. ggml's own operator calls erff() number by number.
ggml_tensor* gelu_erf(ggml_context* ctx, const Device& device, ggml_tensor* x, ggml_tensor* bias);

}  // namespace omni
