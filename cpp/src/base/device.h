// base/device.h - compute devices from ggml's registry. Nothing here or above names a backend.
#pragma once

#include "omni/devices.h"

#include <memory>
#include <string>
#include <vector>

#include "ggml-backend.h"

namespace omni {

struct BackendDeleter {
  void operator()(ggml_backend* backend) const { ggml_backend_free(backend); }
};
using BackendPtr = std::unique_ptr<ggml_backend, BackendDeleter>;

struct BufferDeleter {
  void operator()(ggml_backend_buffer* buffer) const { ggml_backend_buffer_free(buffer); }
};
using BufferPtr = std::unique_ptr<ggml_backend_buffer, BufferDeleter>;

// A device opened for one network: its backend, and the host processor beside it for what the device can't
// do. A network that runs beside others opens its own Device, so that each has its own threads.
class Device {
 public:
  // Throws Error(invalid_argument) naming the devices there are if `options.name` is none of them,
  // Error(device) if it can't be opened.
  explicit Device(const DeviceOptions& options = {});
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  std::string name() const;
  int n_threads() const { return n_threads_; }
  // True if the device computes in host memory: weights can be used where the file is mapped.
  bool is_host() const { return host_ == nullptr; }
  ggml_backend_t backend() const { return backend_.get(); }
  ggml_backend_t host_backend() const { return host_ ? host_.get() : backend_.get(); }
  ggml_backend_dev_t handle() const { return device_; }
  ggml_backend_buffer_type_t buffer_type() const;

  // Buffer types that store weights in another order for faster products (empty on most devices).
  const std::vector<ggml_backend_buffer_type_t>& repack_types() const { return repack_types_; }

  // Whether the host processor has an instruction set by ggml's name for it ("AVX512_BF16", "AVX512_VNNI",
  // ...).
  bool has_feature(const std::string& feature) const;

 private:
  void use_threads(ggml_backend_t host);

  ggml_backend_dev_t device_ = nullptr;
  BackendPtr backend_;
  BackendPtr host_;  // null if backend_ is the host itself
  std::vector<ggml_backend_buffer_type_t> repack_types_;
  int n_threads_ = 0;
  int poll_ = 0;
  std::shared_ptr<void> threads_;  // ggml's thread pool
};

}  // namespace omni
