// base/random.h - the one random number generator of the engine: seeded, the same on every system.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace omni {

// xoshiro256++ by Blackman and Vigna (public domain algorithm), its state filled from the seed by splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed = 0) { reseed(seed); }

  void reseed(uint64_t seed) {
    for (uint64_t& word : state_) {
      seed += 0x9E3779B97F4A7C15U;
      uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
      z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
      word = z ^ (z >> 31);
    }
    has_spare_ = false;
  }

  // 64 uniform bits.
  uint64_t bits() {
    const uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
    const uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // Uniform in [0, 1), with the 53 bits that a double holds.
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }

  // Standard normal, by the Box-Muller transform; draws come in pairs, the second is kept.
  float normal() {
    if (has_spare_) {
      has_spare_ = false;
      return spare_;
    }
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    const double angle = 6.283185307179586 * uniform();
    spare_ = static_cast<float>(radius * std::sin(angle));
    has_spare_ = true;
    return static_cast<float>(radius * std::cos(angle));
  }

 private:
  std::array<uint64_t, 4> state_{};
  float spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace omni
