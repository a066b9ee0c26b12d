// kernels/quantize.cpp - ggml's encoders and decoders, spread over threads by rows.
#include "kernels/quantize.h"

#include "omni/error.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstring>
#include <exception>
#include <string>
#include <thread>

namespace omni {
namespace {

constexpr std::array kWeightTypes{GGML_TYPE_F32,  GGML_TYPE_F16,  GGML_TYPE_BF16, GGML_TYPE_Q8_0,
                                  GGML_TYPE_Q6_K, GGML_TYPE_Q5_K, GGML_TYPE_Q5_1, GGML_TYPE_Q5_0,
                                  GGML_TYPE_Q4_K, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0};

// From here on, rounding to the nearest gives infinity: halfway between the largest F16 number and 65536.
constexpr float kF16Overflow = 65520.0F;

// A piece of work smaller than this is not worth a thread.
constexpr int64_t kElementsPerThread = 1 << 16;

std::string upper(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return out;
}

// ggml names F32 "f32" and Q4_K "q4_K"; people write either case.
std::string type_name(ggml_type type) {
  return upper(ggml_type_name(type));
}

void check_columns(int64_t cols, ggml_type type) {
  require(cols > 0 && cols % ggml_blck_size(type) == 0, ErrorCode::invalid_argument, "rows of ", cols,
          " numbers can't be stored as ", type_name(type), ": its blocks hold ", ggml_blck_size(type));
}

void check_values(std::span<const float> row, int64_t index, ggml_type type) {
  const float limit = type == GGML_TYPE_F16 ? kF16Overflow : INFINITY;
  const auto bad = std::ranges::find_if(row, [limit](float x) { return !(std::abs(x) < limit); });
  require(bad == row.end(), ErrorCode::invalid_argument, "row ", index, ", column ", bad - row.begin(),
          " holds ", bad == row.end() ? 0.0F : *bad, ", which ", type_name(type), " can't hold");
}

// Runs work(first_row, last_row) on parts of [0, rows); the first exception is thrown again here.
template <typename Work>
void over_rows(int64_t rows, int64_t cols, int n_threads, Work work) {
  const int64_t limit = n_threads > 0 ? n_threads : std::max(1U, std::thread::hardware_concurrency());
  const int64_t parts =
      std::clamp<int64_t>(rows * cols / kElementsPerThread, 1, std::min(limit, std::max<int64_t>(rows, 1)));
  std::vector<std::exception_ptr> errors(static_cast<size_t>(parts));
  {
    std::vector<std::jthread> threads;
    for (int64_t i = 0; i < parts; ++i) {
      auto part = [&, i] {
        try {
          work(rows * i / parts, rows * (i + 1) / parts);
        } catch (...) {
          errors[static_cast<size_t>(i)] = std::current_exception();
        }
      };
      if (i + 1 < parts) {
        threads.emplace_back(part);
      } else {
        part();
      }
    }
  }
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace

ggml_type weight_type(std::string_view name) {
  const std::string wanted = upper(name);
  std::string known;
  for (const ggml_type type : kWeightTypes) {
    if (type_name(type) == wanted) return type;
    known += (known.empty() ? "" : ", ") + type_name(type);
  }
  fail(ErrorCode::invalid_argument, "there is no weight type '", name, "'; choose one of ", known);
}

std::vector<uint8_t> quantize_rows(std::span<const float> values, int64_t cols, ggml_type type,
                                   int n_threads) {
  check_columns(cols, type);
  const auto width = static_cast<size_t>(cols);
  require(values.size() % width == 0, ErrorCode::invalid_argument, values.size(),
          " numbers are not whole rows of ", cols);
  const auto rows = static_cast<int64_t>(values.size() / width);
  const size_t row_size = ggml_row_size(type, cols);
  std::vector<uint8_t> out(static_cast<size_t>(rows) * row_size);
  over_rows(rows, cols, n_threads, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const auto row = values.subspan(static_cast<size_t>(r) * width, width);
      check_values(row, r, type);
      ggml_quantize_chunk(type, row.data(), out.data() + static_cast<size_t>(r) * row_size, 0, 1, cols,
                          nullptr);
    }
  });
  return out;
}

std::vector<float> dequantize_rows(std::span<const uint8_t> bytes, int64_t cols, ggml_type type,
                                   int n_threads) {
  check_columns(cols, type);
  const size_t row_size = ggml_row_size(type, cols);
  require(bytes.size() % row_size == 0, ErrorCode::invalid_argument, bytes.size(),
          " bytes are not whole rows of ", cols, " ", type_name(type), " numbers, ", row_size, " bytes each");
  const auto rows = static_cast<int64_t>(bytes.size() / row_size);
  std::vector<float> out(static_cast<size_t>(rows * cols));
  const ggml_to_float_t decode = ggml_get_type_traits(type)->to_float;
  over_rows(rows, cols, n_threads, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const uint8_t* in = bytes.data() + static_cast<size_t>(r) * row_size;
      float* row = out.data() + r * cols;
      if (decode == nullptr) {
        std::memcpy(row, in, row_size);  // F32 needs no decoder
      } else {
        decode(in, row, cols);
      }
    }
  });
  return out;
}

}  // namespace omni
