// vision/pixels.cpp - 8-bit pixels to the normalised numbers that the encoder reads.
#include "omni/error.h"
#include "omni/vision.h"

namespace omni {
namespace {

using Table = std::array<std::array<float, 256>, 3>;

Table scale_table(const PixelScale& scale) {
  Table table;
  for (size_t c = 0; c < 3; ++c) {
    for (size_t u = 0; u < 256; ++u) {
      table[c][u] = (static_cast<float>(u) / 255.0F - scale.mean[c]) / scale.std[c];
    }
  }
  return table;
}

void check_buffers(const Image& image, std::span<float> out) {
  require(image.width >= 1 && image.height >= 1 &&
              image.rgb.size() ==
                  size_t{3} * static_cast<size_t>(image.width) * static_cast<size_t>(image.height),
          ErrorCode::invalid_argument, "an image of ", image.width, "x", image.height, " pixels holds ",
          image.rgb.size(), " bytes");
  require(out.size() == image.rgb.size(), ErrorCode::invalid_argument, "room for ", out.size(),
          " values, but the image has ", image.rgb.size());
}

}  // namespace

void normalize_planes(const Image& image, const PixelScale& scale, std::span<float> out) {
  check_buffers(image, out);
  const Table table = scale_table(scale);
  const size_t pixels = out.size() / 3;
  for (size_t c = 0; c < 3; ++c) {
    float* plane = out.data() + c * pixels;
    for (size_t i = 0; i < pixels; ++i) plane[i] = table[c][image.rgb[3 * i + c]];
  }
}

void normalize_patches(const Image& image, const PixelScale& scale, int patch, std::span<float> out) {
  check_buffers(image, out);
  require(patch >= 1 && image.width % patch == 0 && image.height % patch == 0, ErrorCode::invalid_argument,
          "an image of ", image.width, "x", image.height, " pixels isn't made of whole patches of ", patch);
  const Table table = scale_table(scale);
  const auto p = static_cast<size_t>(patch);
  const auto width = static_cast<size_t>(image.width);
  const size_t columns = width / p;
  const size_t rows = static_cast<size_t>(image.height) / p;
  float* to = out.data();
  for (size_t row = 0; row < rows; ++row) {
    for (size_t column = 0; column < columns; ++column) {
      for (size_t c = 0; c < 3; ++c) {
        for (size_t y = 0; y < p; ++y) {
          const uint8_t* from = image.rgb.data() + ((row * p + y) * width + column * p) * 3 + c;
          for (size_t x = 0; x < p; ++x) *to++ = table[c][from[3 * x]];
        }
      }
    }
  }
}

}  // namespace omni
