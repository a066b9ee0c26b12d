// kernels/quantized_targets.h - the kernels for quantised weights, once for each instruction set that has
// them.
//
//   OMNI_QUANTIZED_TARGET(multiply)(product);   // if has_avx2()
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/quantized_block.h"
#include "kernels/target.h"

#if defined(OMNI_HAS_TARGETS) && defined(__x86_64__)
#define OMNI_HAS_QUANTIZED_KERNELS 1

#include <immintrin.h>

OMNI_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#define OMNI_LANES 16
namespace omni::lanes16 {
namespace {
#include "kernels/simd.inc"
//
#include "kernels/quantized.inc"
//
#include "kernels/quantized_rows.inc"
}  // namespace
}  // namespace omni::lanes16
#undef OMNI_LANES
OMNI_END_TARGET

OMNI_BEGIN_TARGET("avx2,fma,f16c")
#define OMNI_LANES 8
namespace omni::lanes8 {
namespace {
#include "kernels/simd.inc"
//
#include "kernels/quantized.inc"
}  // namespace
}  // namespace omni::lanes8
#undef OMNI_LANES
OMNI_END_TARGET

namespace omni {

inline bool has_vnni() {
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// Every processor with AVX2 also has F16C, which compilers can't ask for.
inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

}  // namespace omni

#define OMNI_QUANTIZED_TARGET(function) (omni::has_vnni() ? lanes16::function : lanes8::function)

#endif
