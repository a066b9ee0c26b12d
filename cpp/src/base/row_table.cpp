// base/row_table.cpp - reading rows of a mapped table.
#include "base/row_table.h"

#include "omni/error.h"

#include <cstring>

namespace omni {

RowTable::RowTable(std::shared_ptr<const GgufFile> file, const std::string& name, int64_t width)
    : file_(std::move(file)), tensor_(&file_->tensor(name)) {
  require(tensor_->n_dims == 2 && tensor_->ne[0] == width && tensor_->ne[1] <= (1 << 24), ErrorCode::format,
          file_->path(), ": tensor '", name, "' has shape ", shape_text(tensor_->ne), ", expected [", width,
          ", rows]");
  require(tensor_->type == GGML_TYPE_F32 || ggml_get_type_traits(tensor_->type)->to_float != nullptr,
          ErrorCode::unsupported, file_->path(), ": tensor '", name, "' is of type ",
          ggml_type_name(tensor_->type), ", which can't be read by rows");
  row_size_ = ggml_row_size(tensor_->type, width);
}

void RowTable::read(int32_t id, std::span<float> out) const {
  require(id >= 0 && id < n_rows(), ErrorCode::invalid_argument, "token id ", id,
          " is outside of the vocabulary of ", n_rows());
  require(out.size() == static_cast<size_t>(width()), ErrorCode::invalid_argument, "the output must hold ",
          width(), " floats");
  const uint8_t* row = tensor_->data + static_cast<size_t>(id) * row_size_;
  if (tensor_->type == GGML_TYPE_F32) {
    std::memcpy(out.data(), row, row_size_);
  } else {
    ggml_get_type_traits(tensor_->type)->to_float(row, out.data(), width());
  }
}

void RowTable::read(std::span<const int32_t> ids, std::span<float> out) const {
  const auto n = static_cast<size_t>(width());
  require(out.size() == ids.size() * n, ErrorCode::invalid_argument, "the output must hold ", ids.size(),
          " x ", n, " floats");
  for (size_t i = 0; i < ids.size(); ++i) read(ids[i], out.subspan(i * n, n));
}

}  // namespace omni
