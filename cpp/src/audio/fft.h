// audio/fft.h - the Fourier transform of real signals whose length is even, by mixed radices.
#pragma once

#include <span>
#include <vector>

namespace omni {

// Immutable, so one object serves every thread; the work space belongs to the caller.
class RealFft {
 public:
  struct Complex {
    double re = 0;
    double im = 0;
  };
  // Space for one transform at a time; sized by make_work().
  struct Work {
    std::vector<Complex> a, b;
  };

  // Throws Error(invalid_argument) unless `n` is even and at least 2. Lengths made of the factors 2, 3, 4 and
  // 5 are fast; any other factor p costs p operations a sample.
  explicit RealFft(int n);

  int size() const { return 2 * half_; }
  int bins() const { return half_ + 1; }  // frequencies 0 .. n/2
  Work make_work() const;

  // X[k] = sum_i x[i] exp(-2 pi j i k / n) for k = 0 .. n/2, unscaled. `x` holds size(), `spectrum` bins()
  // values.
  void transform(std::span<const double> x, std::span<Complex> spectrum, Work& work) const;
  // The same as |X[k]|^2.
  void power(std::span<const double> x, std::span<double> power, Work& work) const;

 private:
  // Half-length complex transform of work.a; the result is in work.a again.
  void half_transform(std::span<const double> x, Work& work) const;
  Complex bin(const Work& work, int k) const;
  template <int Radix>
  void pass(const Complex* in, Complex* out, int radix, int length, int stride) const;

  int half_;
  std::vector<int> radices_;
  std::vector<Complex> half_roots_;  // exp(-2 pi j i / half_)
  std::vector<Complex> roots_;       // exp(-2 pi j i / n), i = 0 .. half_
};

}  // namespace omni
