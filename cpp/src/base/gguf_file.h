// base/gguf_file.h - GGUF version 3 files: mapped, and checked completely before anything is used.
//
// The format: magic "GGUF", u32 version, u64 tensor count, u64 key count, the keys, the tensor records,
// padding to the alignment, tensor data. All little endian.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "ggml.h"

namespace omni {

class MappedFile;

// One tensor of a file. `data` points into the mapping.
struct GgufTensor {
  std::string_view name;
  ggml_type type = GGML_TYPE_F32;
  int n_dims = 1;
  std::array<int64_t, 4> ne{1, 1, 1, 1};  // elements per dimension, ggml order (fastest first)
  uint64_t offset = 0;                    // bytes from the start of the file
  uint64_t size = 0;                      // bytes
  const uint8_t* data = nullptr;

  int64_t elements() const { return ne[0] * ne[1] * ne[2] * ne[3]; }
};

// A text such as "[4096, 151748]" for messages.
std::string shape_text(std::span<const int64_t> ne);

class GgufFile {
 public:
  // Maps and checks the file. Throws Error(file) if it can't be read, Error(format) if its content is
  // damaged: the message names the file and the place.
  explicit GgufFile(const std::string& path);
  // The same over bytes in memory, which must outlive the object; `name` stands for the path in messages.
  GgufFile(std::span<const uint8_t> bytes, std::string name);
  ~GgufFile();
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;

  const std::string& path() const { return path_; }
  uint64_t file_size() const { return bytes_.size(); }
  // Writes the whole file's bytes to `path` (UTF-8). Throws Error(file).
  void save(const std::string& path) const;

  // ---- metadata ----
  // Getters take any integer width for integer keys (writers differ), check ranges, and name file and key
  // when a required key is missing or has another type. The two-argument forms return the default if the key
  // is absent.
  bool has(std::string_view key) const;
  std::vector<std::string_view> keys() const;
  uint32_t u32(std::string_view key) const;
  uint32_t u32(std::string_view key, uint32_t fallback) const;
  float f32(std::string_view key) const;
  float f32(std::string_view key, float fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string_view text(std::string_view key) const;
  std::string_view text(std::string_view key, std::string_view fallback) const;
  std::vector<std::string_view> texts(std::string_view key) const;  // views into the mapping
  std::vector<int32_t> i32s(std::string_view key) const;            // any integer array
  std::vector<float> f32s(std::string_view key) const;
  // The value as text for people, arrays shortened.
  std::string describe(std::string_view key) const;

  // ---- tensors ----
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const GgufTensor* find_tensor(std::string_view name) const;  // null if absent
  // Throws Error(format) naming file and tensor if it is absent or, where `ne` is given, of another shape.
  const GgufTensor& tensor(std::string_view name) const;
  const GgufTensor& tensor(std::string_view name, std::initializer_list<int64_t> ne) const;

  // Lets the pages of this tensor's data leave resident memory (it was copied elsewhere).
  void drop_pages(const GgufTensor& tensor) const;

 private:
  struct Array {
    uint32_t type = 0;  // element type
    uint64_t count = 0;
    std::span<const uint8_t> bytes;  // the encoded elements
  };
  using Value = std::variant<uint64_t, int64_t, double, bool, std::string_view, Array>;
  class Reader;

  void parse();
  const Value& value(std::string_view key) const;
  const Value* find(std::string_view key) const;
  const Array& array(std::string_view key, const char* wanted) const;
  [[noreturn]] void bad_key(std::string_view key, const std::string& what) const;

  std::string path_;
  std::unique_ptr<MappedFile> mapping_;  // null over bytes in memory
  std::span<const uint8_t> bytes_;
  std::vector<std::pair<std::string_view, Value>> values_;
  std::unordered_map<std::string_view, size_t> value_index_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> tensor_index_;
};

}  // namespace omni
