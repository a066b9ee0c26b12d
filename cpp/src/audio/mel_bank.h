// audio/mel_bank.h - triangular filters over the frequencies of a spectrum, kept as their non-zero runs.
#pragma once

#include <span>
#include <vector>

namespace omni {

// Triangles on Slaney's mel scale from 0 to `top_hz`, each of area 1 (in Hz): [length / 2 + 1, bands] for
// transforms of `length` samples at `rate` samples a second.
std::vector<float> slaney_filters(int bands, int rate, int length, double top_hz);

class MelBank {
 public:
  // `filters` is [frequencies, bands]. Throws Error(format) unless they are 1 to 1000 finite, non-negative
  // rows.
  MelBank(std::span<const float> filters, int frequencies);

  int bands() const { return static_cast<int>(bands_.size()); }
  // What filter `band` sees of a spectrum of all frequencies.
  double sum(int band, std::span<const double> spectrum) const;

 private:
  struct Band {
    int first = 0;
    int count = 0;
    size_t offset = 0;  // into weights_
  };
  std::vector<Band> bands_;
  std::vector<double> weights_;
};

}  // namespace omni
