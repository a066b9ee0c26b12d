// kernels/exponential.h - e^x in a form that compilers vectorise.
#pragma once

#include <bit>
#include <cstdint>

namespace omni {

// e^x for |x| <= 87 with a relative error below 2e-7: 2^n times a polynomial on [-ln2/2, ln2/2].
inline float exponential(float x) {
  constexpr float kShift = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  const float shifted = x * 1.44269504F + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0.693145752F) - n * 1.42860677e-6F;  // ln 2 in two parts
  float p = 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kShift) + 127U;
  return p * std::bit_cast<float>(exponent << 23);
}

}  // namespace omni
