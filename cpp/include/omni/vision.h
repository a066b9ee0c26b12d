// Pictures before the encoder: how many slices, their sizes, their pixels. Equals the reference bit for bit.
//
// The rules are MiniCPM-o's: an image becomes one overview of about 448 x 448 pixels' area and, if it is
// larger than that and more slices are allowed, a grid of slices of the same area that tile it. Every side is
// a multiple of the patch size 14; each overview or slice later becomes 64 embeddings.
#pragma once

#include "omni/export.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace omni {

// What an image may be. Larger ones are errors, not truncated.
inline constexpr int kMaxImageSide = 65535;
inline constexpr int64_t kMaxImagePixels = 178'956'970;  // Pillow refuses larger pictures, too
inline constexpr int kMaxSliceNums = 256;
// Patches along one side of a slice. Position buckets are verified up to here; it bounds the aspect ratio of
// an image that isn't sliced to about 4096 : 1.
inline constexpr int kMaxGridSide = 2048;

struct ImageSize {
  int width = 0;  // pixels
  int height = 0;
  friend bool operator==(const ImageSize&, const ImageSize&) = default;
};

// Somebody else's 8-bit RGB pixels, rows from top to bottom.
struct ImageView {
  const uint8_t* data = nullptr;  // R, G, B of the top left pixel
  int width = 0;
  int height = 0;
  size_t stride = 0;  // bytes from one row to the next; 0: 3 * width
};

// 8-bit RGB pixels without padding: rgb.size() == 3 * width * height.
struct Image {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> rgb;

  ImageView view() const { return {rgb.data(), width, height, size_t{3} * static_cast<size_t>(width)}; }
};

struct SliceOptions {
  int max_slice_nums = 9;      // slices beside the overview at most, 1 to kMaxSliceNums; 1: overview only
  int scale_resolution = 448;  // pixels: overview and slices have about the area of this square
  int patch_size = 14;         // pixels
};

// Sizes of one image's overview and slices.
struct SlicePlan {
  ImageSize overview;
  ImageSize slice;  // of each slice; 0 x 0 without a grid
  int columns = 0;  // of slices; 0 without a grid
  int rows = 0;

  bool has_grid() const { return columns > 0; }
  int count() const { return 1 + columns * rows; }  // images to encode
};

// The slices of an image of that size. Throws Error(invalid_argument) for sizes beyond the limits above.
OMNI_API SlicePlan plan_slices(ImageSize image, const SliceOptions& options = {});

// The overview, then the slices row by row.
OMNI_API std::vector<Image> slice_image(const ImageView& image, const SliceOptions& options = {});

// Pillow's bicubic resampling of 8-bit pixels (versions 9.5 to 12.3): antialiased when it shrinks, horizontal
// pass first, rounded to 8 bits between the passes. Throws Error(invalid_argument) for sizes beyond the
// limits.
OMNI_API Image resize_bicubic(const ImageView& image, ImageSize size);

// How pixel values become numbers: (u / 255 - mean) / std in float32, for each of R, G, B.
struct PixelScale {
  std::array<float, 3> mean{0.5F, 0.5F, 0.5F};
  std::array<float, 3> std{0.5F, 0.5F, 0.5F};
};

// Normalised pixels, planes R, G, B. `out` is [width, height, 3] in ggml order.
OMNI_API void normalize_planes(const Image& image, const PixelScale& scale, std::span<float> out);

// Normalised pixels cut into patches, row by row of the patch grid: `out` is [patch * patch * 3, patches] in
// ggml order; inside a patch x is fastest, then y, then the channel. The image's sides are multiples of
// `patch`.
OMNI_API void normalize_patches(const Image& image, const PixelScale& scale, int patch, std::span<float> out);

// Row (or column) of the learned position table for each of n patches along one side, table_side rows in all.
// Follows the reference's float32 arithmetic, which isn't floor(table_side * i / n) for every n.
OMNI_API std::vector<int32_t> position_buckets(int n, int table_side = 70);

}  // namespace omni
