// token2wav/istft.h - the short Fourier transforms at the vocoder's two ends: 16 samples, hop 4.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace omni {

struct VocoderStft {
  static constexpr int64_t kSize = 16;
  static constexpr int64_t kHop = 4;
  static constexpr int64_t kBins = kSize / 2 + 1;
  static constexpr int64_t kColumn = 2 * kBins;  // floats of a column: real parts, then imaginary parts
  static constexpr int64_t kReach = kSize / 2;   // samples on each side of a column's centre

  // Hann window over kSize samples, periodic.
  static const std::array<float, kSize>& window();
};

// Spectrum of the kSize samples around sample 4c; `sample(i)` gives sample i, before 0 and behind the end
// too. `out` takes kColumn values.
void analyse(const std::function<float(int64_t)>& sample, int64_t c, float* out);

// Columns to samples by overlap and add. Column c is centred on sample 4c; samples before 0 are cut.
class Istft {
 public:
  // One column of the vocoder's last convolution: kBins logarithms of magnitudes, then kBins numbers whose
  // sine is the phase in radians. Appends the samples that it completes to `out`.
  void push(const float* column, std::vector<float>& out);
  // Appends what is left up to sample `n` in all.
  void finish(int64_t n, std::vector<float>& out);
  void reset();

 private:
  void emit(std::vector<float>& out);

  int64_t next_ = -VocoderStft::kReach;  // the sample that sum_[0] stands for
  std::array<float, VocoderStft::kSize> sum_{};
  std::array<float, VocoderStft::kSize> weight_{};
};

}  // namespace omni
