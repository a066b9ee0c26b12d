// base/vectorize.h - plain loops compiled for wider vectors, too.
#pragma once

// On a function of plain loops: where the loader can choose, the function exists for AVX2 as well, and the
// machine decides. Elsewhere the compiler's target decides. Sanitizers can't instrument the code that
// chooses.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define OMNI_WIDE_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define OMNI_WIDE_VECTORS
#endif
