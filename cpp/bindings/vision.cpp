// bindings/vision.cpp - slicing, resizing, position buckets and VisionEncoder.
#include "omni/error.h"
#include "omni/vision_encoder.h"

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

// Pixels given by the caller as an Image of its own.
Image to_image(const py::array& pixels) {
  py::array keep;
  const ImageView view = image_view(pixels, keep);
  require(view.width >= 1 && view.height >= 1, ErrorCode::invalid_argument, "a slice has no pixels");
  return resize_bicubic(view, {view.width, view.height});  // the same size: a copy
}

py::array_t<float> to_embeddings(const VisionEncoder& encoder, std::vector<float>&& values, size_t n) {
  const VisionEncoderInfo& info = encoder.info();
  return to_array(std::move(values), {static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(info.n_queries),
                                      static_cast<py::ssize_t>(info.embed_width)});
}

// Normalised planes of every slice with its patch grid, and the grid of slices.
py::tuple normalized_slices(const VisionEncoder& encoder, const py::array& pixels, int max_slice_nums) {
  py::array keep;
  const ImageView view = image_view(pixels, keep);
  const SliceOptions options = encoder.slice_options(max_slice_nums);
  std::vector<Image> slices;
  std::vector<std::vector<float>> planes;
  {
    const py::gil_scoped_release release;
    slices = slice_image(view, options);
    for (const Image& slice : slices) {
      normalize_planes(slice, encoder.pixel_scale(), planes.emplace_back(slice.rgb.size()));
    }
  }
  py::list out;
  for (size_t i = 0; i < slices.size(); ++i) {
    const Image& slice = slices[i];
    out.append(
        py::make_tuple(to_array(std::move(planes[i]), {3, slice.height, slice.width}),
                       py::make_tuple(slice.height / options.patch_size, slice.width / options.patch_size)));
  }
  return py::make_tuple(out, grid_of(plan_slices({view.width, view.height}, options)));
}

py::array_t<float> encode_image(VisionEncoder& encoder, const py::array& pixels, int max_slice_nums) {
  py::array keep;
  const ImageView view = image_view(pixels, keep);
  std::vector<float> out;
  size_t n = 0;
  {
    const py::gil_scoped_release release;
    n = encoder.encode(view, max_slice_nums, out);
  }
  return to_embeddings(encoder, std::move(out), n);
}

py::array_t<float> encode_slices(VisionEncoder& encoder, const std::vector<py::array>& pixels) {
  std::vector<Image> slices;
  slices.reserve(pixels.size());
  for (const py::array& slice : pixels) slices.push_back(to_image(slice));
  std::vector<float> out(slices.size() *
                         static_cast<size_t>(encoder.info().n_queries * encoder.info().embed_width));
  {
    const py::gil_scoped_release release;
    encoder.encode(slices, out);
  }
  return to_embeddings(encoder, std::move(out), slices.size());
}

py::array_t<float> inspect(VisionEncoder& encoder, const py::array& pixels, const std::string& stage) {
  const Image slice = to_image(pixels);
  std::vector<float> values;
  {
    const py::gil_scoped_release release;
    values = encoder.inspect(slice, stage);
  }
  const VisionEncoderInfo& info = encoder.info();
  const int64_t width = stage == "attention" || stage == "positions" ? info.embed_width : info.width;
  const auto rows = static_cast<py::ssize_t>(values.size()) / static_cast<py::ssize_t>(width);
  return to_array(std::move(values), {rows, static_cast<py::ssize_t>(width)});
}

void register_vision_encoder(py::module_& m) {
  py::class_<VisionEncoderInfo>(m, "VisionEncoderInfo")
      .def_readonly("n_layers", &VisionEncoderInfo::n_layers)
      .def_readonly("width", &VisionEncoderInfo::width)
      .def_readonly("ffn_width", &VisionEncoderInfo::ffn_width)
      .def_readonly("n_heads", &VisionEncoderInfo::n_heads)
      .def_readonly("n_queries", &VisionEncoderInfo::n_queries)
      .def_readonly("embed_width", &VisionEncoderInfo::embed_width)
      .def_readonly("table_side", &VisionEncoderInfo::table_side)
      .def_readonly("scale_resolution", &VisionEncoderInfo::scale_resolution)
      .def_readonly("patch_size", &VisionEncoderInfo::patch_size)
      .def_readonly("parameters", &VisionEncoderInfo::parameters)
      .def_readonly("file_bytes", &VisionEncoderInfo::file_bytes)
      .def_readonly("copied_bytes", &VisionEncoderInfo::copied_bytes)
      .def_readonly("matrix_bytes", &VisionEncoderInfo::matrix_bytes)
      .def_readonly("matrix_type", &VisionEncoderInfo::matrix_type);

  py::class_<VisionEncoder, std::shared_ptr<VisionEncoder>>(m, "VisionEncoder")
      .def_static(
          "open",
          [](const std::string& path, int n_threads, const std::string& device, int poll,
             const std::string& weight_format, bool repack, int max_batch) {
            const py::gil_scoped_release release;
            return VisionEncoder::open(path, {weight_format, repack, max_batch, {device, n_threads, poll}});
          },
          py::arg("path"), py::kw_only(), py::arg("n_threads"), py::arg("device"), py::arg("poll"),
          py::arg("weight_format"), py::arg("repack"), py::arg("max_batch"))
      .def_static(
          "synthetic",
          [](const std::string& type, int64_t n_layers, int n_threads, const std::string& device, int poll,
             const std::string& weight_format, bool repack, int max_batch) {
            const py::gil_scoped_release release;
            SyntheticVisionEncoder sizes;
            sizes.type = type;
            sizes.n_layers = n_layers;
            return VisionEncoder::synthetic(sizes,
                                            {weight_format, repack, max_batch, {device, n_threads, poll}});
          },
          py::arg("type"), py::arg("n_layers"), py::kw_only(), py::arg("n_threads"), py::arg("device"),
          py::arg("poll"), py::arg("weight_format"), py::arg("repack"), py::arg("max_batch"))
      .def_property_readonly("info", &VisionEncoder::info)
      .def_property_readonly("device_name", &VisionEncoder::device_name)
      .def("slices", &normalized_slices, py::arg("pixels"), py::arg("max_slice_nums"))
      .def("encode", &encode_image, py::arg("pixels"), py::arg("max_slice_nums"))
      .def("encode_slices", &encode_slices, py::arg("slices"))
      .def("_inspect", &inspect, py::arg("slice"), py::arg("stage"));
}

py::tuple pair(ImageSize size) {
  return py::make_tuple(size.width, size.height);
}

}  // namespace

void register_vision(py::module_& m) {
  register_vision_encoder(m);
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
