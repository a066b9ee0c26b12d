// bench/peaks.cpp - arithmetic and memory peaks, by loops that do nothing else.
#include "omni/peaks.h"

#include "omni/devices.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define OMNI_X86 1
#include <immintrin.h>
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define OMNI_ARM 1
#include <arm_neon.h>
#endif

namespace omni {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A kernel does a fixed number of multiply-adds in registers, twelve independent chains at a time so that
// neither latency nor loads limit it, and returns something that depends on all of them.
constexpr int kChains = 12;
constexpr int kRounds = 5000;
using Kernel = float (*)();
struct Measured {
  Kernel kernel = nullptr;
  double operations = 0;  // of one call
};

#if defined(OMNI_X86)

// One body for every width and type: `step` is the instruction under test.
#define OMNI_CHAINS(vector, zero, step)            \
  vector acc[kChains];                             \
  for (auto& a : acc) a = zero;                    \
  for (int r = 0; r < kRounds; ++r) {              \
    _Pragma("GCC unroll 12") for (auto& a : acc) { \
      a = step;                                    \
    }                                              \
  }

// By way of memory of their own: a pointer into the chains themselves would keep them in memory.
__attribute__((target("avx512f"))) float first_lane(__m512 x) {
  float lanes[16];
  _mm512_storeu_ps(lanes, x);
  return lanes[0];
}
__attribute__((target("avx512f"))) int32_t first_lane(__m512i x) {
  int32_t lanes[16];
  _mm512_storeu_si512(lanes, x);
  return lanes[0];
}

__attribute__((target("avx2,fma"))) float f32_avx2() {
  const __m256 x = _mm256_set1_ps(0.5F);
  __m256 acc[kChains];
  for (auto& a : acc) a = _mm256_setzero_ps();
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (auto& a : acc) {
      a = _mm256_fmadd_ps(a, x, x);
    }
  }
  float sum = 0;
  for (const auto& a : acc) sum += _mm256_cvtss_f32(a);
  return sum;
}

__attribute__((target("avx512f"))) float f32_avx512() {
  const __m512 x = _mm512_set1_ps(0.5F);
  OMNI_CHAINS(__m512, _mm512_setzero_ps(), _mm512_fmadd_ps(a, x, x))
  float sum = 0;
  for (const auto& a : acc) sum += first_lane(a);
  return sum;
}

__attribute__((target("avx512f,avx512bf16"))) float bf16_avx512() {
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5F), _mm512_set1_ps(0.5F));
  OMNI_CHAINS(__m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(a, x, x))
  float sum = 0;
  for (const auto& a : acc) sum += first_lane(a);
  return sum;
}

__attribute__((target("avx512f,avx512vnni"))) float int8_avx512() {
  const __m512i x = _mm512_set1_epi8(1);
  OMNI_CHAINS(__m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(a, x, x))
  float sum = 0;
  for (const auto& a : acc) sum += static_cast<float>(first_lane(a));
  return sum;
}

__attribute__((target("avx2"))) float int8_avx2() {
  const __m256i x = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i acc[kChains];
  for (auto& a : acc) a = _mm256_setzero_si256();
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (auto& a : acc) {
      __m256i y = x;
      asm volatile("" : "+x"(y));  // else the products would leave the loop
      a = _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(y, x), ones));
    }
  }
  float sum = 0;
  for (const auto& a : acc) sum += static_cast<float>(_mm256_extract_epi32(a, 0));
  return sum;
}
#undef OMNI_CHAINS

constexpr double kCalls = 2.0 * kChains * kRounds;  // multiply and add of one lane of every chain

Measured f32_kernel() {
  if (__builtin_cpu_supports("avx512f")) return {f32_avx512, kCalls * 16};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {f32_avx2, kCalls * 8};
  return {};
}
Measured bf16_kernel() {
  if (__builtin_cpu_supports("avx512bf16")) return {bf16_avx512, kCalls * 32};
  return {};
}
Measured int8_kernel() {
  if (__builtin_cpu_supports("avx512vnni")) return {int8_avx512, kCalls * 64};
  if (__builtin_cpu_supports("avx2")) return {int8_avx2, kCalls * 32};
  return {};
}

#elif defined(OMNI_ARM)

float f32_neon() {
  const float32x4_t x = vdupq_n_f32(0.5F);
  float32x4_t acc[kChains];
  for (auto& a : acc) a = vdupq_n_f32(0);
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (auto& a : acc) {
      a = vfmaq_f32(a, x, x);
    }
  }
  float sum = 0;
  for (const auto& a : acc) sum += vgetq_lane_f32(a, 0);
  return sum;
}

Measured f32_kernel() {
  return {f32_neon, 2.0 * kChains * kRounds * 4};
}
Measured bf16_kernel() {
  return {};
}
#if defined(__ARM_FEATURE_DOTPROD)
float int8_neon() {
  const int8x16_t x = vdupq_n_s8(1);
  int32x4_t acc[kChains];
  for (auto& a : acc) a = vdupq_n_s32(0);
  for (int r = 0; r < kRounds; ++r) {
#pragma GCC unroll 12
    for (auto& a : acc) {
      a = vdotq_s32(a, x, x);
    }
  }
  float sum = 0;
  for (const auto& a : acc) sum += static_cast<float>(vgetq_lane_s32(a, 0));
  return sum;
}
Measured int8_kernel() {
  return {int8_neon, 2.0 * kChains * kRounds * 16};
}
#else
Measured int8_kernel() {
  return {};
}
#endif

#else

Measured f32_kernel() {
  return {};
}
Measured bf16_kernel() {
  return {};
}
Measured int8_kernel() {
  return {};
}

#endif

// Runs `body(thread)` on every thread in rounds of 10 ms and returns the best work per
// second; `body` returns the work it did.
template <typename Body>
double best_rate(int n_threads, double seconds, const Body& body) {
  double best = 0;
  const Clock::time_point start = Clock::now();
  do {
    std::vector<double> work(static_cast<size_t>(n_threads), 0.0);
    const Clock::time_point round = Clock::now();
    std::vector<std::thread> threads;
    threads.reserve(work.size());
    for (int i = 0; i < n_threads; ++i) {
      threads.emplace_back([&, i] {
        while (seconds_since(round) < 0.01) work[static_cast<size_t>(i)] += body(i);
      });
    }
    for (std::thread& t : threads) t.join();
    const double elapsed = seconds_since(round);
    double total = 0;
    for (const double w : work) total += w;
    best = std::max(best, total / elapsed);
  } while (seconds_since(start) < seconds);
  return best;
}

double arithmetic_peak(const Measured& measured, int n_threads, double seconds) {
  if (measured.kernel == nullptr) return 0;
  std::atomic<float> sink{0};
  const double rate = best_rate(n_threads, seconds, [&](int) {
    sink.store(measured.kernel(), std::memory_order_relaxed);
    return measured.operations;
  });
  return rate * 1e-9;
}

double memory_peak(int n_threads, double seconds) {
  // Far more than any cache; each thread reads a part of its own.
  constexpr size_t kWords = size_t{128} << 20 >> 3;
  const auto data = std::make_unique<uint64_t[]>(kWords * static_cast<size_t>(n_threads));
  std::atomic<uint64_t> sink{0};
  const double rate = best_rate(n_threads, seconds, [&](int thread) {
    const uint64_t* part = data.get() + kWords * static_cast<size_t>(thread);
    constexpr size_t kLanes = 32;
    std::array<uint64_t, kLanes> sum{};
    for (size_t i = 0; i < kWords; i += kLanes) {
      for (size_t lane = 0; lane < kLanes; ++lane) sum[lane] += part[i + lane];
    }
    for (const uint64_t s : sum) sink.fetch_add(s, std::memory_order_relaxed);
    return static_cast<double>(kWords * sizeof(uint64_t));
  });
  return rate * 1e-9;
}

}  // namespace

MachinePeaks measure_peaks(int n_threads, double seconds) {
  const int threads = n_threads > 0 ? n_threads : default_threads();
  MachinePeaks peaks;
  peaks.f32 = arithmetic_peak(f32_kernel(), threads, seconds);
  peaks.bf16 = arithmetic_peak(bf16_kernel(), threads, seconds);
  peaks.int8 = arithmetic_peak(int8_kernel(), threads, seconds);
  peaks.memory_read = memory_peak(threads, std::max(seconds, 1.0));
  return peaks;
}

}  // namespace omni
