// vision/resize.cpp - Pillow's bicubic resampling in fixed point, bit for bit.
//
// Each pass is a weighted sum over a window of source samples with weights of 22 fractional bits. The
// vertical pass runs along rows, where neighbouring samples share their weights. The horizontal pass is made
// to look the same: 16 rows at a time are turned so that their samples lie side by side.
#include "omni/error.h"
#include "omni/vision.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/vectorize.h"
#include "vision/image_checks.h"

namespace omni {
namespace {

constexpr int kFractionBits = 22;
constexpr int32_t kHalf = 1 << (kFractionBits - 1);
constexpr size_t kTileRows = 16;          // rows that the horizontal pass takes at once
constexpr size_t kLanes = 3 * kTileRows;  // samples of one column of such a tile
constexpr size_t kVerticalBlock = 1024;   // samples whose sums the vertical pass keeps at hand

// The windows and weights of one dimension.
struct Weights {
  struct Window {
    int first = 0;  // source sample
    int count = 0;
  };
  std::vector<Window> windows;  // one for each output sample
  std::vector<int32_t> values;  // `width` for each output sample, of which `count` are used
  size_t width = 0;

  const int32_t* row(size_t i) const { return values.data() + i * width; }
};

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

Weights make_weights(int in, int out) {
  const double scale = double(in) / out;
  const double stretch = std::max(scale, 1.0);  // the kernel is widened only when the image shrinks
  const double reach = 2.0 * stretch;
  const double inverse = 1.0 / stretch;

  Weights w;
  w.width = static_cast<size_t>(std::ceil(reach)) * 2 + 1;
  w.windows.resize(static_cast<size_t>(out));
  w.values.resize(w.windows.size() * w.width);
  std::vector<double> exact(w.width);
  for (size_t o = 0; o < w.windows.size(); ++o) {
    const double centre = (double(o) + 0.5) * scale;
    const int first = std::max(static_cast<int>(std::trunc(centre - reach + 0.5)), 0);
    const int count = std::min(static_cast<int>(std::trunc(centre + reach + 0.5)), in) - first;
    w.windows[o] = {first, count};
    double sum = 0.0;
    for (int i = 0; i < count; ++i) {
      exact[static_cast<size_t>(i)] = bicubic((i + first - centre + 0.5) * inverse);
      sum += exact[static_cast<size_t>(i)];
    }
    for (int i = 0; i < count; ++i) {
      double value = exact[static_cast<size_t>(i)];
      if (sum != 0.0) value /= sum;
      value = value * (1 << kFractionBits) + (value < 0 ? -0.5 : 0.5);
      w.values[o * w.width + static_cast<size_t>(i)] = static_cast<int32_t>(value);
    }
  }
  return w;
}

inline uint8_t to_sample(int32_t sum) {
  const int32_t value = sum >> kFractionBits;
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// ---- horizontal pass ----

// 8 x 8 bytes, rows `from_step` bytes apart, written as columns. Blocks of 4, 2 and 1 bytes change places.
inline void transpose8(const uint8_t* from, size_t from_step, uint8_t* to, size_t to_step) {
  uint64_t row[8];
  for (size_t i = 0; i < 8; ++i) std::memcpy(&row[i], from + i * from_step, 8);
  const auto exchange = [&row](size_t distance, int bits, uint64_t low) {
    for (size_t i = 0; i < 8; ++i) {
      if (i & distance) continue;
      uint64_t& a = row[i];
      uint64_t& b = row[i + distance];
      const uint64_t changed = ((a >> bits) ^ b) & low;
      a ^= changed << bits;
      b ^= changed;
    }
  };
  exchange(4, 32, 0x00000000FFFFFFFF);
  exchange(2, 16, 0x0000FFFF0000FFFF);
  exchange(1, 8, 0x00FF00FF00FF00FF);
  for (size_t i = 0; i < 8; ++i) std::memcpy(to + i * to_step, &row[i], 8);
}

// Rows of n samples to n columns of kTileRows samples. Rows beyond `rows` keep what is in the tile.
void rows_to_tile(const uint8_t* from, size_t stride, size_t rows, size_t n, uint8_t* tile) {
  const size_t whole = rows == kTileRows ? n / 8 * 8 : 0;
  for (size_t x = 0; x < whole; x += 8) {
    for (size_t r = 0; r < kTileRows; r += 8) {
      transpose8(from + r * stride + x, stride, tile + x * kTileRows + r, kTileRows);
    }
  }
  for (size_t x = whole; x < n; ++x) {
    for (size_t r = 0; r < rows; ++r) tile[x * kTileRows + r] = from[r * stride + x];
  }
}

void tile_to_rows(const uint8_t* tile, size_t rows, size_t n, uint8_t* to, size_t stride) {
  const size_t whole = rows == kTileRows ? n / 8 * 8 : 0;
  for (size_t x = 0; x < whole; x += 8) {
    for (size_t r = 0; r < kTileRows; r += 8) {
      transpose8(tile + x * kTileRows + r, kTileRows, to + r * stride + x, stride);
    }
  }
  for (size_t x = whole; x < n; ++x) {
    for (size_t r = 0; r < rows; ++r) to[r * stride + x] = tile[x * kTileRows + r];
  }
}

OMNI_WIDE_VECTORS void resample_tile(const uint8_t* from, const Weights& w, uint8_t* to) {
  for (size_t o = 0; o < w.windows.size(); ++o, to += kLanes) {
    int32_t sum[kLanes];
    for (int32_t& s : sum) s = kHalf;
    const uint8_t* sample = from + static_cast<size_t>(w.windows[o].first) * kLanes;
    const int32_t* weight = w.values.data() + o * w.width;
    for (int i = 0; i < w.windows[o].count; ++i, sample += kLanes) {
      const int32_t factor = weight[i];
      for (size_t l = 0; l < kLanes; ++l) sum[l] += factor * sample[l];
    }
    for (size_t l = 0; l < kLanes; ++l) to[l] = to_sample(sum[l]);
  }
}

Image resize_rows(const ImageView& image, int width) {
  const Weights w = make_weights(image.width, width);
  Image out{width, image.height, {}};
  const size_t in_row = size_t{3} * static_cast<size_t>(image.width);
  const size_t out_row = size_t{3} * static_cast<size_t>(width);
  const auto height = static_cast<size_t>(image.height);
  out.rgb.resize(out_row * height);
  std::vector<uint8_t> in_tile(in_row * kTileRows);
  std::vector<uint8_t> out_tile(out_row * kTileRows);
  for (size_t y = 0; y < height; y += kTileRows) {
    const size_t rows = std::min(kTileRows, height - y);
    rows_to_tile(image.data + y * image.stride, image.stride, rows, in_row, in_tile.data());
    resample_tile(in_tile.data(), w, out_tile.data());
    tile_to_rows(out_tile.data(), rows, out_row, out.rgb.data() + y * out_row, out_row);
  }
  return out;
}

// ---- vertical pass ----

OMNI_WIDE_VECTORS void resample_row(const uint8_t* from, size_t stride, const int32_t* weight, int count,
                                    size_t n, uint8_t* to) {
  int32_t sum[kVerticalBlock];
  for (size_t begin = 0; begin < n; begin += kVerticalBlock) {
    const size_t block = std::min(kVerticalBlock, n - begin);
    for (size_t l = 0; l < block; ++l) sum[l] = kHalf;
    for (int i = 0; i < count; ++i) {
      const int32_t factor = weight[i];
      const uint8_t* sample = from + static_cast<size_t>(i) * stride + begin;
      for (size_t l = 0; l < block; ++l) sum[l] += factor * sample[l];
    }
    for (size_t l = 0; l < block; ++l) to[begin + l] = to_sample(sum[l]);
  }
}

Image resize_columns(const ImageView& image, int height) {
  const Weights w = make_weights(image.height, height);
  Image out{image.width, height, {}};
  const size_t row = size_t{3} * static_cast<size_t>(image.width);
  out.rgb.resize(row * static_cast<size_t>(height));
  for (size_t y = 0; y < w.windows.size(); ++y) {
    resample_row(image.data + static_cast<size_t>(w.windows[y].first) * image.stride, image.stride, w.row(y),
                 w.windows[y].count, row, out.rgb.data() + y * row);
  }
  return out;
}

Image copy(const ImageView& image) {
  Image out{image.width, image.height, {}};
  const size_t row = size_t{3} * static_cast<size_t>(image.width);
  out.rgb.resize(row * static_cast<size_t>(image.height));
  for (size_t y = 0; y < static_cast<size_t>(image.height); ++y) {
    std::memcpy(out.rgb.data() + y * row, image.data + y * image.stride, row);
  }
  return out;
}

}  // namespace

Image resize_bicubic(const ImageView& image, ImageSize size) {
  const ImageView source = checked(image);
  check_size(size, "resized image");
  // The picture between the passes has the new width and the old height.
  check_size({size.width, source.height}, "picture between the passes of resizing");
  if (size == ImageSize{source.width, source.height}) return copy(source);
  if (size.width == source.width) return resize_columns(source, size.height);
  Image wide = resize_rows(source, size.width);
  if (size.height == source.height) return wide;
  return resize_columns(wide.view(), size.height);
}

}  // namespace omni
