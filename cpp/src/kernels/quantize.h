// kernels/quantize.h - rows of float32 numbers to the weight types and back.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "ggml.h"

namespace omni {

// The weight type of this name ("F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1",
// "Q4_0", any case). Throws Error(invalid_argument) with the list if there is none.
ggml_type weight_type(std::string_view name);

// Encodes rows of `cols` numbers; the result holds ggml_row_size(type, cols) bytes a row. Rows are
// independent, so a tensor may be encoded in parts. Without an importance matrix. `n_threads` 0 means one per
// processor. Throws Error(invalid_argument) if `cols` is no multiple of the type's block (256 for the K
// types, 32 for the other quantised ones), if a number is not finite, or does not fit F16.
std::vector<uint8_t> quantize_rows(std::span<const float> values, int64_t cols, ggml_type type,
                                   int n_threads);

// The numbers that the rows stand for. Throws Error(invalid_argument) if the bytes are not whole rows.
std::vector<float> dequantize_rows(std::span<const uint8_t> bytes, int64_t cols, ggml_type type,
                                   int n_threads);

}  // namespace omni
