// vision/slicing.cpp - how many slices an image is cut into, their sizes, and the cutting.
#include "omni/error.h"
#include "omni/vision.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "vision/image_checks.h"

namespace omni {
namespace {

// The multiple of `step` nearest to `length`, ties to the even multiple (as Python's round), at least one
// step.
double snap(double length, int step) {
  return std::max(std::nearbyint(length / step) * step, double(step));
}

ImageSize to_size(double width, double height) {
  return {static_cast<int>(width), static_cast<int>(height)};
}

// The size in whole patches that keeps the aspect ratio of width x height (doubles: a slice of a refined
// image needn't have whole pixels here) and has the area of scale_resolution squared; smaller images keep
// their own area unless `upscale`. The width follows from the already truncated height, as in the reference.
ImageSize fit(double width, double height, bool upscale, const SliceOptions& options) {
  const double side = options.scale_resolution;
  if (upscale || width * height > side * side) {
    const double ratio = width / height;
    height = std::trunc(side / std::sqrt(ratio));
    width = std::trunc(height * ratio);
  }
  return to_size(snap(width, options.patch_size), snap(height, options.patch_size));
}

// Columns and rows of slices: among the factorisations of counts near the area's share, the one with the
// aspect ratio nearest to the image's on a logarithmic scale. The first of equals wins. {0, 0}: no slices.
ImageSize choose_grid(ImageSize image, const SliceOptions& options) {
  const double area = double(image.width) * image.height;
  const double unit = double(options.scale_resolution) * options.scale_resolution;
  const int wanted = static_cast<int>(std::min(std::ceil(area / unit), double(options.max_slice_nums)));
  if (wanted <= 1) return {0, 0};

  const double log_ratio = std::log(double(image.width) / image.height);
  ImageSize best{1, 1};
  double best_error = std::numeric_limits<double>::infinity();
  for (int count = wanted - 1; count <= wanted + 1; ++count) {
    if (count == 1 || count > options.max_slice_nums) continue;
    for (int columns = 1; columns <= count; ++columns) {
      if (count % columns != 0) continue;
      const int rows = count / columns;
      const double error = std::abs(log_ratio - std::log(double(columns) / rows));
      if (error < best_error) {
        best = {columns, rows};
        best_error = error;
      }
    }
  }
  return best;
}

void check_grid_side(ImageSize slice, ImageSize image, int patch_size) {
  const int side = std::max(slice.width, slice.height) / patch_size;
  require(side <= kMaxGridSide, ErrorCode::invalid_argument, "image is ", image.width, "x", image.height,
          " pixels: so elongated that it would need ", side, " patches along a side, and the limit is ",
          kMaxGridSide, "; crop it first");
}

Image crop(const Image& image, int left, int top, ImageSize size) {
  Image out{size.width, size.height, {}};
  const size_t row = size_t{3} * static_cast<size_t>(size.width);
  out.rgb.resize(row * static_cast<size_t>(size.height));
  for (int y = 0; y < size.height; ++y) {
    const size_t from = (static_cast<size_t>(top + y) * static_cast<size_t>(image.width) + left) * 3;
    std::memcpy(out.rgb.data() + row * static_cast<size_t>(y), image.rgb.data() + from, row);
  }
  return out;
}

}  // namespace

SlicePlan plan_slices(ImageSize image, const SliceOptions& options) {
  check_size(image, "image");
  require(options.max_slice_nums >= 1 && options.max_slice_nums <= kMaxSliceNums, ErrorCode::invalid_argument,
          "max_slice_nums is ", options.max_slice_nums, "; it must be 1 to ", kMaxSliceNums);
  require(options.patch_size >= 1 && options.scale_resolution >= options.patch_size &&
              options.scale_resolution <= 8192,
          ErrorCode::invalid_argument, "patch size ", options.patch_size, " and scale resolution ",
          options.scale_resolution, " don't fit together");

  SlicePlan plan;
  const ImageSize grid = choose_grid(image, options);
  plan.columns = grid.width;
  plan.rows = grid.height;
  // A lone image is scaled up to the full area; the overview of a sliced one is larger than that anyway.
  plan.overview = fit(image.width, image.height, !plan.has_grid(), options);
  check_grid_side(plan.overview, image, options.patch_size);
  if (plan.has_grid()) {
    plan.slice = fit(snap(image.width, plan.columns) / plan.columns,
                     snap(image.height, plan.rows) / plan.rows, true, options);
    check_grid_side(plan.slice, image, options.patch_size);
  }
  return plan;
}

std::vector<Image> slice_image(const ImageView& image, const SliceOptions& options) {
  const ImageView source = checked(image);
  const SlicePlan plan = plan_slices({source.width, source.height}, options);
  std::vector<Image> out;
  out.reserve(static_cast<size_t>(plan.count()));
  out.push_back(resize_bicubic(source, plan.overview));
  if (plan.has_grid()) {
    const Image refined =
        resize_bicubic(source, {plan.slice.width * plan.columns, plan.slice.height * plan.rows});
    for (int row = 0; row < plan.rows; ++row) {
      for (int column = 0; column < plan.columns; ++column) {
        out.push_back(crop(refined, column * plan.slice.width, row * plan.slice.height, plan.slice));
      }
    }
  }
  return out;
}

}  // namespace omni
