// kernels/prepare_row.h - what the kernels of Prepare work on: one row.
#pragma once

#include <cstdint>

namespace omni::prepare {

enum class Kind : uint8_t { norm, norm_mish, snake, leaky, copy };

struct Row {
  const float* x;
  const float* a;  // factors and summands of a norm, or a snake's two numbers; null if there are none
  const float* b;
  void* y;  // F32 or BF16
  int64_t n;
};

}  // namespace omni::prepare
