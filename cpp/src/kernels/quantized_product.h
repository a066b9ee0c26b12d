// kernels/quantized_product.h - products of quantised weights with many columns, by kernels of our own.
#pragma once

#include <cstdint>

#include "ggml.h"

#include "base/device.h"

namespace omni {

// Whether weights [in, ...] of `type` should stay as they are in the file, because kernels of ours multiply
// them on this device faster than ggml's do in any layout.
bool keeps_quantized(const Device& device, ggml_type type);

// weights^T x on the host processor: x [in, n, ...] F32 -> [out, n, ...] F32, or null if ggml's product is
// the better one for these. Activations are rounded to 8 bits with one scale for 256 of them, as ggml does.
ggml_tensor* quantized_product(ggml_context* ctx, ggml_tensor* weights, ggml_tensor* x);

}  // namespace omni
