// base/weights.h - the tensors of a model file, placed where a device computes.
//
// Networks first declare what they need (which checks names and shapes), then load() once. On a host device a
// tensor that is used as stored costs no memory: it points into the mapped file. What is converted or
// repacked is a copy, and the file's pages behind it are dropped.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/device.h"
#include "base/gguf_file.h"

namespace omni {

struct ContextDeleter {
  void operator()(ggml_context* context) const { ggml_free(context); }
};
using ContextPtr = std::unique_ptr<ggml_context, ContextDeleter>;

class Weights {
 public:
  using Shape = std::initializer_list<int64_t>;  // ggml order
  using Progress = std::function<void(float)>;   // fraction of the bytes placed so far

  Weights(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device);
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  const GgufFile& file() const { return *file_; }
  Device& device() const { return *device_; }

  // As stored. Throws Error(format) if absent or of another shape.
  ggml_tensor* tensor(const std::string& name, Shape ne);
  // As F32, converted when stored otherwise: norms, biases, tables that operators want in F32.
  ggml_tensor* f32(const std::string& name, Shape ne);
  // A copy in another type or buffer type; `buffer` null means the device's own.
  ggml_tensor* placed(const std::string& name, Shape ne, ggml_type type,
                      ggml_backend_buffer_type_t buffer = nullptr);
  // A tensor that is not stored as such: `fill` writes its elements (F32, contiguous, zero before) when
  // load() runs. They are held as `type`; `buffer` as in placed().
  ggml_tensor* computed(const std::string& name, Shape ne, std::function<void(float*)> fill,
                        ggml_type type = GGML_TYPE_F32, ggml_backend_buffer_type_t buffer = nullptr);
  // Whether the file has the tensor.
  bool has(const std::string& name) const { return file_->find_tensor(name) != nullptr; }

  // Allocates and fills everything declared. Call once, after the last declaration. Throws
  // Error(out_of_memory).
  void load(const Progress& progress = {});

  // Bytes that load() copied (converted, repacked or uploaded), beyond the mapped file.
  size_t copied_bytes() const { return copied_bytes_; }

 private:
  struct Pending {
    ggml_tensor* tensor = nullptr;
    const GgufTensor* source = nullptr;  // null for computed tensors
    std::function<void(float*)> fill;
  };
  struct Group {
    ggml_backend_buffer_type_t type = nullptr;  // null: mapped
    ContextPtr context;
    BufferPtr buffer;
  };

  ggml_context* context_for(ggml_backend_buffer_type_t type);
  ggml_tensor* declare(ggml_context* context, const std::string& name, Shape ne, ggml_type type);
  ggml_tensor* map(const GgufTensor& source, Shape ne);
  void fill(const Pending& pending) const;

  std::shared_ptr<const GgufFile> file_;
  std::shared_ptr<Device> device_;
  std::vector<Group> groups_;
  std::vector<Pending> pending_;
  size_t copied_bytes_ = 0;
  bool loaded_ = false;
};

// Converts `count` elements (a multiple of the block of both types) between types by way of F32. `scratch` is
// reused.
void convert_elements(ggml_type from, const void* source, ggml_type to, void* target, int64_t count,
                      std::vector<float>& scratch);

// All elements of a stored tensor as F32.
void read_floats(const GgufTensor& source, float* out);

}  // namespace omni
