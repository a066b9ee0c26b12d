// base/gguf_builder.h - a GGUF file made in memory: for models with random weights, and for tests.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/gguf_file.h"

namespace omni {

// Collects keys and tensor records, then lays the file out. The caller fills the tensors in place.
class GgufBuilder {
 public:
  void set(const std::string& key, uint32_t value);
  void set(const std::string& key, float value);
  void set(const std::string& key, const std::string& value);
  void set(const std::string& key, const std::vector<float>& values);
  void tensor(const std::string& name, ggml_type type, std::vector<int64_t> ne);

  // Lays the file out and calls `fill(tensor, data)` for each tensor. Throws Error(out_of_memory).
  template <typename Fill>
  std::shared_ptr<const GgufFile> build(const std::string& name, Fill&& fill) const {
    const Layout layout = lay_out();
    const GgufFile file(std::span<const uint8_t>(layout.bytes.get(), layout.size), name);
    for (const GgufTensor& t : file.tensors()) fill(t, layout.bytes.get() + t.offset);
    return finish(layout, name);
  }

 private:
  struct Layout {
    std::shared_ptr<uint8_t> bytes;
    size_t size = 0;
  };
  struct Record {
    std::string name;
    ggml_type type;
    std::vector<int64_t> ne;
  };

  Layout lay_out() const;
  static std::shared_ptr<const GgufFile> finish(const Layout& layout, const std::string& name);
  void key(const std::string& name, uint32_t type);

  uint64_t n_keys_ = 0;
  std::vector<uint8_t> keys_;
  std::vector<Record> records_;
};

}  // namespace omni
