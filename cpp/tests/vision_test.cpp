// tests/vision_test.cpp - slicing, resizing and position buckets without Python: limits, memory, edges.
#include "omni/vision.h"

#include "omni/error.h"

#include <algorithm>
#include <limits>
#include <random>

#include <gtest/gtest.h>

namespace omni {
namespace {

Image noise(int width, int height, uint32_t seed = 1) {
  std::mt19937 random(seed);
  Image image{width, height, {}};
  image.rgb.resize(size_t{3} * static_cast<size_t>(width) * static_cast<size_t>(height));
  for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(random());
  return image;
}

TEST(Vision, EverySmallResizeStaysInItsBuffers) {
  // Sides around the tile of 16 rows and the 8-byte blocks; the sanitizers watch.
  for (const int width : {1, 2, 3, 7, 8, 15, 16, 17, 33}) {
    for (const int height : {1, 2, 15, 16, 17, 31, 48}) {
      const Image image = noise(width, height);
      for (const ImageSize size : {ImageSize{1, 1}, {width, 5}, {5, height}, {16, 16}, {35, 19}, {200, 3}}) {
        const Image out = resize_bicubic(image.view(), size);
        EXPECT_EQ(out.rgb.size(),
                  size_t{3} * static_cast<size_t>(size.width) * static_cast<size_t>(size.height));
      }
    }
  }
}

TEST(Vision, FlatColourStaysFlat) {
  // Weights are normalised before they are rounded; the rounding must not show even at the ends of the range.
  for (const uint8_t level : {0, 1, 127, 254, 255}) {
    Image image{45, 31, std::vector<uint8_t>(size_t{3} * 45 * 31, level)};
    for (const ImageSize size : {ImageSize{9, 4}, {448, 448}, {1, 1}}) {
      const Image out = resize_bicubic(image.view(), size);
      EXPECT_TRUE(std::all_of(out.rgb.begin(), out.rgb.end(), [&](uint8_t v) { return v == level; }));
    }
  }
}

TEST(Vision, StrideIsHonoured) {
  const Image wide = noise(64, 40);
  Image packed{50, 40, {}};
  for (size_t y = 0; y < 40; ++y) {
    const uint8_t* row = wide.rgb.data() + y * 3 * 64;
    packed.rgb.insert(packed.rgb.end(), row, row + size_t{3} * 50);
  }
  const ImageView part{wide.rgb.data(), 50, 40, size_t{3} * 64};
  for (const ImageSize size : {ImageSize{20, 30}, {50, 30}, {20, 40}, {50, 40}}) {
    EXPECT_EQ(resize_bicubic(part, size).rgb, resize_bicubic(packed.view(), size).rgb);
  }
}

TEST(Vision, SlicesTileTheRefinedImage) {
  const Image image = noise(1000, 640);
  const SlicePlan plan = plan_slices({1000, 640});
  ASSERT_TRUE(plan.has_grid());
  const std::vector<Image> slices = slice_image(image.view());
  ASSERT_EQ(slices.size(), static_cast<size_t>(plan.count()));
  const Image refined =
      resize_bicubic(image.view(), {plan.slice.width * plan.columns, plan.slice.height * plan.rows});
  for (int y = 0; y < refined.height; ++y) {
    for (int column = 0; column < plan.columns; ++column) {
      const Image& slice = slices[static_cast<size_t>(1 + y / plan.slice.height * plan.columns + column)];
      const auto row = static_cast<ptrdiff_t>(3) * plan.slice.width;
      const auto from = refined.rgb.begin() + (static_cast<ptrdiff_t>(y) * plan.columns + column) * row;
      ASSERT_TRUE(std::equal(from, from + row, slice.rgb.begin() + y % plan.slice.height * row));
    }
  }
}

TEST(Vision, PatchesHoldTheSamePixelsAsPlanes) {
  const Image image = noise(28, 42);
  std::vector<float> planes(image.rgb.size());
  std::vector<float> patches(image.rgb.size());
  const PixelScale scale{{0.5F, 0.4F, 0.3F}, {0.5F, 0.6F, 0.7F}};
  normalize_planes(image, scale, planes);
  normalize_patches(image, scale, 14, patches);
  size_t at = 0;
  for (size_t patch = 0; patch < 6; ++patch) {
    for (size_t c = 0; c < 3; ++c) {
      for (size_t y = 0; y < 14; ++y) {
        for (size_t x = 0; x < 14; ++x) {
          ASSERT_EQ(patches[at++], planes[(c * 42 + patch / 2 * 14 + y) * 28 + patch % 2 * 14 + x]);
        }
      }
    }
  }
}

TEST(Vision, NormalisationInFloat32) {
  const Image image{2, 2, {0, 127, 128, 255, 0, 127, 128, 255, 0, 127, 128, 255}};
  std::vector<float> planes(12);
  normalize_planes(image, {}, planes);
  EXPECT_EQ(planes[0], -1.0F);
  EXPECT_EQ(planes[4], -0.003921568393707275F);
  EXPECT_EQ(planes[8], 0.003921627998352051F);
  EXPECT_EQ(planes[1], 1.0F);
}

TEST(Vision, LimitsAreErrors) {
  const Image image = noise(4, 4);
  const int huge = std::numeric_limits<int>::max();
  EXPECT_THROW(plan_slices({huge, huge}), Error);
  EXPECT_THROW(plan_slices({0, 4}), Error);
  EXPECT_THROW(plan_slices({4, 4}, {.max_slice_nums = 0}), Error);
  EXPECT_THROW(plan_slices({4, 4}, {.scale_resolution = 3}), Error);
  EXPECT_THROW(plan_slices({4, 4}, {.patch_size = 0}), Error);
  EXPECT_THROW(resize_bicubic(image.view(), {huge, 1}), Error);
  EXPECT_THROW(resize_bicubic({nullptr, 4, 4, 0}, {2, 2}), Error);
  EXPECT_THROW(resize_bicubic({image.rgb.data(), 4, 4, 11}, {2, 2}), Error);
  EXPECT_THROW(resize_bicubic({image.rgb.data(), -4, 4, 0}, {2, 2}), Error);
  EXPECT_THROW(position_buckets(kMaxGridSide + 1), Error);
  EXPECT_THROW(position_buckets(5, 0), Error);
  std::vector<float> small(5);
  EXPECT_THROW(normalize_planes(image, {}, small), Error);
  std::vector<float> right(48);
  EXPECT_THROW(normalize_patches(image, {}, 14, right), Error);
  EXPECT_NO_THROW(plan_slices({1, 4096}));
}

TEST(Vision, LongestGridHasABucketForEveryPatch) {
  const std::vector<int32_t> buckets = position_buckets(kMaxGridSide);
  EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
  EXPECT_EQ(buckets.front(), 0);
  EXPECT_EQ(buckets.back(), 69);
}

}  // namespace
}  // namespace omni
