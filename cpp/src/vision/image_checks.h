// vision/image_checks.h - the limits of omni/vision.h, checked in one place.
#pragma once

#include "omni/error.h"
#include "omni/vision.h"

namespace omni {

// `what` names the image in the message, e.g. "image" or "resized image".
inline void check_size(ImageSize size, const char* what) {
  require(size.width >= 1 && size.height >= 1, ErrorCode::invalid_argument, what, " is ", size.width, "x",
          size.height, " pixels; both sides must be at least 1");
  require(size.width <= kMaxImageSide && size.height <= kMaxImageSide &&
              int64_t{size.width} * size.height <= kMaxImagePixels,
          ErrorCode::invalid_argument, what, " is ", size.width, "x", size.height, " pixels; the limits are ",
          kMaxImageSide, " for a side and ", kMaxImagePixels, " pixels in all: scale it down first");
}

// Checks an image from outside and fills in its stride.
inline ImageView checked(ImageView image) {
  check_size({image.width, image.height}, "image");
  require(image.data != nullptr, ErrorCode::invalid_argument, "image has no pixels (null pointer)");
  const size_t row = size_t{3} * static_cast<size_t>(image.width);
  if (image.stride == 0) image.stride = row;
  require(image.stride >= row, ErrorCode::invalid_argument, "image stride is ", image.stride,
          " bytes, but a row of ", image.width, " RGB pixels takes ", row);
  return image;
}

}  // namespace omni
