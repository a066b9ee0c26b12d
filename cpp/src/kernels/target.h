// kernels/target.h - functions for an instruction set that the build's own target may lack.
//
//   OMNI_BEGIN_TARGET("avx2,fma")
//   ... functions, called only where __builtin_cpu_supports() says so ...
//   OMNI_END_TARGET
//
// OMNI_HAS_TARGETS is defined where this works: compilers with vector types.
#pragma once

#if defined(__GNUC__)
#define OMNI_HAS_TARGETS 1
#define OMNI_INLINE [[gnu::always_inline]] inline

#define OMNI_PRAGMA(text) _Pragma(#text)
// Before a loop of at most four rounds whose variables should live in registers.
#if defined(__clang__)
#define OMNI_UNROLL OMNI_PRAGMA(unroll)
#else
#define OMNI_UNROLL OMNI_PRAGMA(GCC unroll 4)
#endif
#if defined(__clang__)
#define OMNI_BEGIN_TARGET(features) \
  OMNI_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define OMNI_END_TARGET OMNI_PRAGMA(clang attribute pop)
#else
#define OMNI_BEGIN_TARGET(features) OMNI_PRAGMA(GCC push_options) OMNI_PRAGMA(GCC target(features))
#define OMNI_END_TARGET OMNI_PRAGMA(GCC pop_options)
#endif

#endif  // __GNUC__
