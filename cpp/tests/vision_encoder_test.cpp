// tests/vision_encoder_test.cpp - the encoder with random weights, whole images and bad input.
#include "omni/vision_encoder.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

namespace omni {
namespace {

SyntheticVisionEncoder tiny_sizes(const char* type) {
  SyntheticVisionEncoder sizes;
  sizes.type = type;
  sizes.n_layers = 2;
  sizes.width = 96;
  sizes.ffn_width = 150;  // no whole blocks
  sizes.n_heads = 4;      // heads of 24: padded
  sizes.n_queries = 5;
  sizes.embed_width = 128;
  return sizes;
}

// One thread, so that the test takes the same time beside others.
std::shared_ptr<VisionEncoder> tiny_encoder(const char* format, int max_batch = 1) {
  VisionEncoderOptions options;
  options.weight_format = format;
  options.max_batch = max_batch;
  options.device.n_threads = 1;
  return VisionEncoder::synthetic(tiny_sizes("F32"), options);
}

Image pattern(int width, int height) {
  Image image{width, height, {}};
  for (int i = 0; i < 3 * width * height; ++i) image.rgb.push_back(static_cast<uint8_t>(i * 7 + i / 91));
  return image;
}

double relative(const std::vector<float>& got, const std::vector<float>& expected) {
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(double(got[i]) - expected[i], 2);
    size += std::pow(double(expected[i]), 2);
  }
  return std::sqrt(difference / size);
}

std::vector<float> encode(VisionEncoder& encoder, const std::vector<Image>& slices) {
  std::vector<float> out(slices.size() * 5 * 128);
  encoder.encode(slices, out);
  return out;
}

TEST(VisionEncoder, FormatsAgree) {
  const std::vector<Image> slices = {pattern(28, 42), pattern(70, 14), pattern(28, 42)};
  const std::vector<float> expected = encode(*tiny_encoder("stored"), slices);
  EXPECT_TRUE(std::equal(expected.begin(), expected.begin() + 640, expected.begin() + 1280));
  EXPECT_LT(relative(encode(*tiny_encoder("stored", 4), slices), expected), 1e-6);
  // Activations and weights of 8 mantissa bits, and of 8 bits in blocks.
  EXPECT_LT(relative(encode(*tiny_encoder("bf16"), slices), expected), 2e-2);
  EXPECT_LT(relative(encode(*tiny_encoder("q8_0"), slices), expected), 4e-2);
}

TEST(VisionEncoder, WholeImages) {
  const auto encoder = tiny_encoder("auto");
  std::vector<float> out;
  EXPECT_EQ(encoder->encode(pattern(700, 500).view(), 4, out), 3U);
  EXPECT_EQ(out.size(), 3U * 5 * 128);
  for (const float value : out) ASSERT_TRUE(std::isfinite(value));
}

TEST(VisionEncoder, BadInputIsAnError) {
  const auto encoder = tiny_encoder("auto");
  std::vector<float> out;
  EXPECT_THROW(encoder->encode({nullptr, 5, 5, 0}, 1, out), Error);
  EXPECT_THROW(encoder->encode(pattern(5, 5).view(), 0, out), Error);
  std::vector<float> small(7);
  const std::vector<Image> slices = {pattern(14, 14)};
  EXPECT_THROW(encoder->encode(slices, small), Error);
  EXPECT_THROW(encode(*encoder, {pattern(15, 14)}), Error);
  EXPECT_THROW(encode(*encoder, {Image{14, 14, {1, 2, 3}}}), Error);
  EXPECT_THROW(encoder->inspect(pattern(14, 14), "layer.2"), Error);
  EXPECT_THROW(VisionEncoder::synthetic(tiny_sizes("Q4_K")), Error);
}

}  // namespace
}  // namespace omni
