// tests/quantize_test.cpp - encoders and decoders of weights.
#include "kernels/quantize.h"

#include "omni/error.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace omni {
namespace {

std::vector<float> waves(int64_t n) {
  std::vector<float> values(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) values[static_cast<size_t>(i)] = std::sin(static_cast<float>(i) * 0.37F);
  return values;
}

TEST(Quantize, RoundTripStaysWithinHalfAStep) {
  const auto values = waves(256 * 300);
  for (const auto& [name, bound] :
       {std::pair{"F32", 0.0F}, {"F16", 2.5e-4F}, {"Q8_0", 0.005F}, {"Q4_K", 0.1F}}) {
    const ggml_type type = weight_type(name);
    const auto bytes = quantize_rows(values, 256, type, 3);
    ASSERT_EQ(bytes.size(), 300 * ggml_row_size(type, 256));
    EXPECT_EQ(bytes, quantize_rows(values, 256, type, 1)) << name;
    const auto back = dequantize_rows(bytes, 256, type, 2);
    for (size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(back[i], values[i], bound) << name << " at " << i;
  }
}

TEST(Quantize, NamesTheFirstNumberThatDoesNotFit) {
  auto values = waves(256 * 400);
  values[256 * 399 + 7] = std::numeric_limits<float>::quiet_NaN();
  try {
    quantize_rows(values, 256, GGML_TYPE_Q4_K, 4);
    FAIL() << "NaN was accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(e.what()).find("row 399, column 7"), std::string::npos) << e.what();
  }
}

TEST(Quantize, RefusesRowsThatBlocksDoNotDivide) {
  EXPECT_THROW(quantize_rows(waves(96), 96, GGML_TYPE_Q4_K, 1), Error);
  EXPECT_THROW(quantize_rows(waves(33), 32, GGML_TYPE_Q8_0, 1), Error);
  EXPECT_THROW(quantize_rows(waves(32), 0, GGML_TYPE_Q8_0, 1), Error);
  EXPECT_THROW(weight_type("Q4_K_M"), Error);
  EXPECT_TRUE(quantize_rows({}, 32, GGML_TYPE_Q8_0, 4).empty());
}

}  // namespace
}  // namespace omni
