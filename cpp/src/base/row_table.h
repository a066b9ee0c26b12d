// base/row_table.h - a table of which only a few rows are ever wanted: read where the file is mapped.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/gguf_file.h"

namespace omni {

// A tensor [width, n_rows] of a file, as float rows. Nothing is copied at load.
class RowTable {
 public:
  // Throws Error(format) if the file has no such tensor or its rows have another width, Error(unsupported)
  // for types that can't be read.
  RowTable(std::shared_ptr<const GgufFile> file, const std::string& name, int64_t width);

  int64_t width() const { return tensor_->ne[0]; }
  int64_t n_rows() const { return tensor_->ne[1]; }

  // One row, [width]. Throws Error(invalid_argument) on an unknown id.
  void read(int32_t id, std::span<float> out) const;
  // Rows [n, width].
  void read(std::span<const int32_t> ids, std::span<float> out) const;

 private:
  std::shared_ptr<const GgufFile> file_;
  const GgufTensor* tensor_;
  size_t row_size_ = 0;  // bytes
};

}  // namespace omni
