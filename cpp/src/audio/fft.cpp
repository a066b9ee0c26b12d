// audio/fft.cpp - Stockham's autosort transform over the radices of the length.
#include "audio/fft.h"

#include "omni/error.h"

#include <array>
#include <cmath>
#include <numbers>

namespace omni {
namespace {

using Complex = RealFft::Complex;

Complex operator+(Complex a, Complex b) {
  return {a.re + b.re, a.im + b.im};
}
Complex operator-(Complex a, Complex b) {
  return {a.re - b.re, a.im - b.im};
}
Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
Complex operator*(double s, Complex a) {
  return {s * a.re, s * a.im};
}
Complex times_minus_j(Complex a) {
  return {a.im, -a.re};
}
Complex conj(Complex a) {
  return {a.re, -a.im};
}

std::vector<Complex> roots_of_unity(int n, int count) {
  std::vector<Complex> roots(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const double angle = -2.0 * std::numbers::pi * i / n;
    roots[static_cast<size_t>(i)] = {std::cos(angle), std::sin(angle)};
  }
  return roots;
}

// Discrete transforms of the small radices, in place.
void butterfly(std::array<Complex, 2>& a) {
  a = {a[0] + a[1], a[0] - a[1]};
}

void butterfly(std::array<Complex, 3>& a) {
  const Complex sum = a[1] + a[2];
  const Complex mid = a[0] - 0.5 * sum;
  const Complex turned = times_minus_j(std::numbers::sqrt3 / 2 * (a[1] - a[2]));
  a = {a[0] + sum, mid + turned, mid - turned};
}

void butterfly(std::array<Complex, 4>& a) {
  const Complex even = a[0] + a[2];
  const Complex even_difference = a[0] - a[2];
  const Complex odd = a[1] + a[3];
  const Complex turned = times_minus_j(a[1] - a[3]);
  a = {even + odd, even_difference + turned, even - odd, even_difference - turned};
}

void butterfly(std::array<Complex, 5>& a) {
  constexpr double kCos1 = 0.30901699437494742410;   // cos(2 pi / 5)
  constexpr double kCos2 = -0.80901699437494742410;  // cos(4 pi / 5)
  constexpr double kSin1 = 0.95105651629515357212;
  constexpr double kSin2 = 0.58778525229247312917;
  const Complex sum1 = a[1] + a[4];
  const Complex sum2 = a[2] + a[3];
  const Complex difference1 = a[1] - a[4];
  const Complex difference2 = a[2] - a[3];
  const Complex mid1 = a[0] + kCos1 * sum1 + kCos2 * sum2;
  const Complex mid2 = a[0] + kCos2 * sum1 + kCos1 * sum2;
  const Complex turned1 = times_minus_j(kSin1 * difference1 + kSin2 * difference2);
  const Complex turned2 = times_minus_j(kSin2 * difference1 - kSin1 * difference2);
  a = {a[0] + sum1 + sum2, mid1 + turned1, mid2 + turned2, mid2 - turned2, mid1 - turned1};
}

}  // namespace

RealFft::RealFft(int n) : half_(n / 2) {
  require(n >= 2 && n % 2 == 0, ErrorCode::invalid_argument, "a transform needs an even length, got ", n);
  int rest = half_;
  for (const int radix : {4, 2, 3, 5}) {
    for (; rest % radix == 0; rest /= radix) radices_.push_back(radix);
  }
  for (int radix = 7; rest > 1; radix += 2) {
    for (; rest % radix == 0; rest /= radix) radices_.push_back(radix);
  }
  half_roots_ = roots_of_unity(half_, half_);
  roots_ = roots_of_unity(n, half_ + 1);
}

RealFft::Work RealFft::make_work() const {
  return {std::vector<Complex>(static_cast<size_t>(half_)), std::vector<Complex>(static_cast<size_t>(half_))};
}

// One radix of a transform of `length` points done `stride` times side by side. Radix 0 is any other radix.
template <int Radix>
void RealFft::pass(const Complex* in, Complex* out, int radix, int length, int stride) const {
  const int groups = length / radix;
  const auto root = [&](int64_t turn) { return half_roots_[static_cast<size_t>(turn)]; };
  for (int p = 0; p < groups; ++p) {
    for (int q = 0; q < stride; ++q) {
      const Complex* from = in + q + stride * p;
      Complex* to = out + q + stride * radix * p;
      if constexpr (Radix > 0) {
        std::array<Complex, Radix> a;
        for (int k = 0; k < Radix; ++k) a[static_cast<size_t>(k)] = from[stride * groups * k];
        butterfly(a);
        to[0] = a[0];
        for (int j = 1; j < Radix; ++j) {
          to[stride * j] = a[static_cast<size_t>(j)] * root(int64_t{p} * j * stride);
        }
      } else {
        for (int j = 0; j < radix; ++j) {
          Complex sum = from[0];
          for (int k = 1; k < radix; ++k) {
            sum = sum + from[stride * groups * k] * root(int64_t{j} * k % radix * (half_ / radix));
          }
          to[stride * j] = sum * root(int64_t{p} * j * stride);
        }
      }
    }
  }
}

void RealFft::half_transform(std::span<const double> x, Work& work) const {
  for (size_t i = 0; i < static_cast<size_t>(half_); ++i) work.a[i] = {x[2 * i], x[2 * i + 1]};
  int length = half_;
  int stride = 1;
  for (const int radix : radices_) {
    const Complex* in = work.a.data();
    Complex* out = work.b.data();
    switch (radix) {
      case 2:
        pass<2>(in, out, radix, length, stride);
        break;
      case 3:
        pass<3>(in, out, radix, length, stride);
        break;
      case 4:
        pass<4>(in, out, radix, length, stride);
        break;
      case 5:
        pass<5>(in, out, radix, length, stride);
        break;
      default:
        pass<0>(in, out, radix, length, stride);
    }
    work.a.swap(work.b);
    length /= radix;
    stride *= radix;
  }
}

// The real transform out of the half-length one, whose points are even + j odd samples.
Complex RealFft::bin(const Work& work, int k) const {
  const Complex z = work.a[static_cast<size_t>(k == half_ ? 0 : k)];
  const Complex mirrored = conj(work.a[static_cast<size_t>(k == 0 ? 0 : half_ - k)]);
  const Complex odd = times_minus_j(z - mirrored) * roots_[static_cast<size_t>(k)];
  return 0.5 * (z + mirrored + odd);
}

void RealFft::transform(std::span<const double> x, std::span<Complex> spectrum, Work& work) const {
  half_transform(x, work);
  for (int k = 0; k <= half_; ++k) spectrum[static_cast<size_t>(k)] = bin(work, k);
}

void RealFft::power(std::span<const double> x, std::span<double> power, Work& work) const {
  half_transform(x, work);
  for (int k = 0; k <= half_; ++k) {
    const Complex value = bin(work, k);
    power[static_cast<size_t>(k)] = value.re * value.re + value.im * value.im;
  }
}

}  // namespace omni
