// bindings/vision.cpp - slicing, resizing and position buckets.
#include "omni/vision.h"

#include "omni/error.h"

#include <optional>

#include "bindings.h"

namespace omni::python {
namespace {

// An 8-bit array [height, width, 3] as an ImageView; `keep` holds the array that the view points into.
ImageView image_view(const py::array& pixels, py::array& keep) {
  require(py::isinstance<py::array_t<uint8_t>>(pixels), ErrorCode::invalid_argument, "pixels are of type ",
          std::string(py::str(pixels.dtype())), "; uint8 is needed");
  require(pixels.ndim() == 3 && pixels.shape(2) == 3, ErrorCode::invalid_argument,
          "pixels must be an array [height, width, 3]");
  require(pixels.shape(0) <= kMaxImageSide && pixels.shape(1) <= kMaxImageSide, ErrorCode::invalid_argument,
          "image is ", pixels.shape(1), "x", pixels.shape(0), " pixels; the limit for a side is ",
          kMaxImageSide);
  const int height = static_cast<int>(pixels.shape(0));
  const int width = static_cast<int>(pixels.shape(1));
  keep = pixels;
  if (pixels.strides(2) != 1 || pixels.strides(1) != 3 || pixels.strides(0) < 3 * py::ssize_t{width}) {
    keep = py::array_t<uint8_t, py::array::c_style | py::array::forcecast>(pixels);
  }
  return {static_cast<const uint8_t*>(keep.data()), width, height, static_cast<size_t>(keep.strides(0))};
}

py::array_t<uint8_t> to_pixels(Image&& image) {
  return to_array(std::move(image.rgb), {image.height, image.width, 3});
}

py::object grid_of(const SlicePlan& plan) {
  if (!plan.has_grid()) return py::none();
  return py::make_tuple(plan.columns, plan.rows);
}

py::tuple pair(ImageSize size) {
  return py::make_tuple(size.width, size.height);
}

}  // namespace

void register_vision(py::module_& m) {
  m.attr("MAX_IMAGE_SIDE") = kMaxImageSide;
  m.attr("MAX_IMAGE_PIXELS") = kMaxImagePixels;
  m.def(
      "plan_slices",
      [](int width, int height, int max_slice_nums, int scale_resolution, int patch_size) {
        const SlicePlan plan = plan_slices({width, height}, {max_slice_nums, scale_resolution, patch_size});
        py::object slice = py::none();
        if (plan.has_grid()) slice = pair(plan.slice);
        return py::make_tuple(pair(plan.overview), slice, grid_of(plan));
      },
      py::arg("width"), py::arg("height"), py::arg("max_slice_nums") = SliceOptions().max_slice_nums,
      py::kw_only(), py::arg("scale_resolution") = SliceOptions().scale_resolution,
      py::arg("patch_size") = SliceOptions().patch_size);
  m.def(
      "slice_image",
      [](const py::array& pixels, int max_slice_nums) {
        py::array keep;
        const ImageView view = image_view(pixels, keep);
        std::vector<Image> slices;
        {
          const py::gil_scoped_release release;
          slices = slice_image(view, {.max_slice_nums = max_slice_nums});
        }
        py::list out;
        for (Image& slice : slices) out.append(to_pixels(std::move(slice)));
        return out;
      },
      py::arg("pixels"), py::arg("max_slice_nums") = SliceOptions().max_slice_nums);
  m.def(
      "resize_bicubic",
      [](const py::array& pixels, int width, int height) {
        py::array keep;
        const ImageView view = image_view(pixels, keep);
        Image out;
        {
          const py::gil_scoped_release release;
          out = resize_bicubic(view, {width, height});
        }
        return to_pixels(std::move(out));
      },
      py::arg("pixels"), py::arg("width"), py::arg("height"));
  m.def(
      "position_buckets",
      [](int n, int table_side) {
        const auto size = static_cast<py::ssize_t>(n);
        return to_array(position_buckets(n, table_side), {size});
      },
      py::arg("n"), py::arg("table_side") = 70);
}

}  // namespace omni::python
