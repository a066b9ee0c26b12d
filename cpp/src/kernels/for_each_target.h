// kernels/for_each_target.h - includes a kernel once for each instruction set, in a namespace of its own.
//
//   #define OMNI_KERNEL_FILE "kernels/scale.inc"   // uses what simd.inc defines; includes nothing itself
//   #include "kernels/for_each_target.h"
//   ... OMNI_BEST_TARGET(scale)(x, n);             // the one for the widest vectors that the processor has
//
// On other machines than x86 there is one target, with the build's own instruction set.

#include <cstdint>
#include <cstring>

#include "kernels/target.h"

#if defined(OMNI_HAS_TARGETS)

#if defined(__x86_64__)

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
#else
#define OMNI_BEST_TARGET(function) lanes4::function
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
