// vision/positions.cpp - which rows of the learned position table the patches of a grid use.
#include "omni/error.h"
#include "omni/vision.h"

#include <algorithm>

namespace omni {

// The reference compares float32 fractions i/n with float32 bucket edges k/side; a fraction that lies on an
// edge mathematically is decided by rounding. Its fractions come from a vectorised ramp: blocks of 16
// samples, made of 8-lane vectors that start at the rounded value of their first sample; what remains is
// computed one by one.
std::vector<int32_t> position_buckets(int n, int table_side) {
  require(n >= 1 && n <= kMaxGridSide, ErrorCode::invalid_argument, "a side of ", n,
          " patches; it must be 1 to ", kMaxGridSide);
  require(table_side >= 1 && table_side <= kMaxGridSide, ErrorCode::invalid_argument, "a position table of ",
          table_side, " rows a side; it must be 1 to ", kMaxGridSide);
  std::vector<float> edges;
  for (int k = 1; k < table_side; ++k) edges.push_back(static_cast<float>(double(k) / table_side));

  const double step = static_cast<double>(1.0F / static_cast<float>(n));
  std::vector<int32_t> buckets(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) {
    double sample = i * step;
    if (i < n / 16 * 16) {
      const int first = i & ~7;
      sample = static_cast<double>(static_cast<float>(first * step)) + (i - first) * step;
    }
    const auto above = std::upper_bound(edges.begin(), edges.end(), static_cast<float>(sample));
    buckets[static_cast<size_t>(i)] = static_cast<int32_t>(above - edges.begin());
  }
  return buckets;
}

}  // namespace omni
