// kernels/for_each_target.h - includes a kernel once for each instruction set, in a namespace of its own.
//
//   #define OMNI_KERNEL_FILE "kernels/scale.inc"   // uses what simd.inc defines; includes no headers
//   #include "kernels/for_each_target.h"
//   ... OMNI_BEST_TARGET(scale)(x, n);             // the one for the widest vectors that the processor has
//
// With OMNI_WITH_BF16_DOT defined there is one more, which multiplies pairs of BF16 numbers: a kernel file
// tells it by OMNI_BF16_DOT, OMNI_BEST_BF16_TARGET chooses it where it can. Include <immintrin.h> before.
//
// On other machines than x86 there is one target, with the build's own instruction set.

#include <cstdint>
#include <cstring>

#include "kernels/target.h"

#if defined(OMNI_HAS_TARGETS)

#if defined(__x86_64__)

#if defined(OMNI_WITH_BF16_DOT)
OMNI_BEGIN_TARGET("avx512f,avx512vl,avx512bf16,avx2,fma")
#define OMNI_LANES 16
#define OMNI_BF16_DOT 1
namespace omni::lanes16_bf16 {
namespace {
#include "kernels/simd.inc"
#include OMNI_KERNEL_FILE
}  // namespace
}  // namespace omni::lanes16_bf16
#undef OMNI_BF16_DOT
#undef OMNI_LANES
OMNI_END_TARGET
#endif

OMNI_BEGIN_TARGET("avx512f,avx512vl,avx2,fma")
#define OMNI_LANES 16
namespace omni::lanes16 {
namespace {
#include "kernels/simd.inc"
#include OMNI_KERNEL_FILE
}  // namespace
}  // namespace omni::lanes16
#undef OMNI_LANES
OMNI_END_TARGET

OMNI_BEGIN_TARGET("avx2,fma")
#define OMNI_LANES 8
namespace omni::lanes8 {
namespace {
#include "kernels/simd.inc"
#include OMNI_KERNEL_FILE
}  // namespace
}  // namespace omni::lanes8
#undef OMNI_LANES
OMNI_END_TARGET

#define OMNI_BEST_TARGET(function)                                                             \
  (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") ? lanes16::function \
   : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")       ? lanes8::function  \
                                                                           : lanes4::function)
#define OMNI_HAS_BF16_DOT                                                       \
  (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512f") && \
   __builtin_cpu_supports("avx512vl"))
#define OMNI_BEST_BF16_TARGET(function) \
  (OMNI_HAS_BF16_DOT ? lanes16_bf16::function : OMNI_BEST_TARGET(function))
#else
#define OMNI_BEST_TARGET(function) lanes4::function
#define OMNI_HAS_BF16_DOT false
#define OMNI_BEST_BF16_TARGET(function) lanes4::function
#endif

#define OMNI_LANES 4
namespace omni::lanes4 {
namespace {
#include "kernels/simd.inc"
#include OMNI_KERNEL_FILE
}  // namespace
}  // namespace omni::lanes4
#undef OMNI_LANES

#endif  // OMNI_HAS_TARGETS
