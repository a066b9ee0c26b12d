// base/weights.cpp - placing tensors: mapped, copied, converted or repacked.
#include "base/weights.h"

#include "omni/error.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

namespace omni {

void convert_elements(ggml_type from, const void* source, ggml_type to, void* target, int64_t count,
                      std::vector<float>& scratch) {
  const float* values = static_cast<const float*>(source);
  if (from != GGML_TYPE_F32) {
    const auto to_float = ggml_get_type_traits(from)->to_float;
    require(to_float != nullptr, ErrorCode::unsupported, "weights of type ", ggml_type_name(from),
            " can't be converted");
    if (to == GGML_TYPE_F32) {
      to_float(source, static_cast<float*>(target), count);
      return;
    }
    scratch.resize(static_cast<size_t>(count));
    to_float(source, scratch.data(), count);
    values = scratch.data();
  }
  if (to == GGML_TYPE_F32) {
    std::memcpy(target, values, static_cast<size_t>(count) * sizeof(float));
  } else {
    ggml_quantize_chunk(to, values, target, 0, 1, count, nullptr);
  }
}

void read_floats(const GgufTensor& source, float* out) {
  std::vector<float> unused;
  convert_elements(source.type, source.data, GGML_TYPE_F32, out, source.elements(), unused);
}

Weights::Weights(std::shared_ptr<const GgufFile> file, std::shared_ptr<Device> device)
    : file_(std::move(file)), device_(std::move(device)) {}

ggml_context* Weights::context_for(ggml_backend_buffer_type_t type) {
  for (const Group& group : groups_) {
    if (group.type == type) return group.context.get();
  }
  // Room for every tensor of the file twice (a weight may be held in two forms), and for computed ones.
  const size_t capacity = 2 * file_->tensors().size() + 256;
  const ggml_init_params params{capacity * ggml_tensor_overhead(), nullptr, true};
  Group& group = groups_.emplace_back();
  group.type = type;
  group.context.reset(ggml_init(params));
  require(group.context != nullptr, ErrorCode::out_of_memory, "no memory for the tensor table of ",
          file_->path());
  return group.context.get();
}

ggml_tensor* Weights::declare(ggml_context* context, const std::string& name, Shape ne, ggml_type type) {
  require(!loaded_, ErrorCode::internal, "tensor ", name, " is declared after load()");
  ggml_tensor* t = ggml_new_tensor(context, type, static_cast<int>(ne.size()), ne.begin());
  ggml_set_name(t, name.c_str());
  return t;
}

ggml_tensor* Weights::map(const GgufTensor& source, Shape ne) {
  ggml_tensor* t = declare(context_for(nullptr), std::string(source.name), ne, source.type);
  Group* group = nullptr;
  for (Group& g : groups_) {
    if (g.type == nullptr) group = &g;
  }
  if (group->buffer == nullptr) {
    // The tensor data region, from its first to its last byte.
    uint64_t first = file_->file_size();
    uint64_t last = 0;
    uint64_t largest = 0;
    const uint8_t* base = source.data - source.offset;
    for (const GgufTensor& g : file_->tensors()) {
      first = std::min(first, g.offset);
      last = std::max(last, g.offset + g.size);
      largest = std::max(largest, g.size);
    }
    constexpr uint64_t kAlignment = 64;  // ggml wants aligned buffers; the mapping itself starts on a page
    first = first / kAlignment * kAlignment;
    group->buffer.reset(ggml_backend_dev_buffer_from_host_ptr(
        device_->handle(), const_cast<uint8_t*>(base + first), last - first, largest));
    require(group->buffer != nullptr, ErrorCode::device, file_->path(), ": device ", device_->name(),
            " can't use mapped memory");
    ggml_backend_buffer_set_usage(group->buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
  }
  const ggml_status status =
      ggml_backend_tensor_alloc(group->buffer.get(), t, const_cast<uint8_t*>(source.data));
  require(status == GGML_STATUS_SUCCESS, ErrorCode::device, file_->path(), ": tensor ", source.name,
          " can't be placed");
  return t;
}

ggml_tensor* Weights::tensor(const std::string& name, Shape ne) {
  const GgufTensor& source = file_->tensor(name, ne);
  if (device_->is_host()) return map(source, ne);
  return placed(name, ne, source.type);
}

ggml_tensor* Weights::f32(const std::string& name, Shape ne) {
  const GgufTensor& source = file_->tensor(name, ne);
  if (source.type == GGML_TYPE_F32) return tensor(name, ne);
  return placed(name, ne, GGML_TYPE_F32);
}

ggml_tensor* Weights::placed(const std::string& name, Shape ne, ggml_type type,
                             ggml_backend_buffer_type_t buffer) {
  const GgufTensor& source = file_->tensor(name, ne);
  require(*ne.begin() % ggml_blck_size(type) == 0, ErrorCode::unsupported, file_->path(), ": tensor ", name,
          " has rows of ", *ne.begin(), " elements, which ", ggml_type_name(type), " can't hold");
  ggml_tensor* t = declare(context_for(buffer != nullptr ? buffer : device_->buffer_type()), name, ne, type);
  pending_.push_back({t, &source, {}});
  return t;
}

ggml_tensor* Weights::computed(const std::string& name, Shape ne, std::function<void(float*)> fill,
                               ggml_type type, ggml_backend_buffer_type_t buffer) {
  require(*ne.begin() % ggml_blck_size(type) == 0, ErrorCode::internal, "tensor ", name, " has rows of ",
          *ne.begin(), " elements, which ", ggml_type_name(type), " can't hold");
  ggml_tensor* t = declare(context_for(buffer != nullptr ? buffer : device_->buffer_type()), name, ne, type);
  pending_.push_back({t, nullptr, std::move(fill)});
  return t;
}

void Weights::fill(const Pending& pending) const {
  ggml_tensor* t = pending.tensor;
  if (pending.source == nullptr) {
    std::vector<float> values(static_cast<size_t>(ggml_nelements(t)));
    pending.fill(values.data());
    if (t->type == GGML_TYPE_F32) {
      ggml_backend_tensor_set(t, values.data(), 0, values.size() * sizeof(float));
    } else {
      std::vector<uint8_t> converted(ggml_nbytes(t));
      ggml_quantize_chunk(t->type, values.data(), converted.data(), 0, ggml_nrows(t), t->ne[0], nullptr);
      ggml_backend_tensor_set(t, converted.data(), 0, converted.size());
    }
    return;
  }
  const GgufTensor& source = *pending.source;
  if (source.type == t->type) {
    ggml_backend_tensor_set(t, source.data, 0, source.size);
  } else {
    // Whole tensors at once: buffers that repack take nothing less.
    std::vector<uint8_t> converted(ggml_nbytes(t));
    std::vector<float> scratch;
    const int64_t rows = ggml_nrows(t);
    const size_t from_row = ggml_row_size(source.type, t->ne[0]);
    const size_t to_row = ggml_row_size(t->type, t->ne[0]);
    for (int64_t r = 0; r < rows; ++r) {
      convert_elements(source.type, source.data + static_cast<size_t>(r) * from_row, t->type,
                       converted.data() + static_cast<size_t>(r) * to_row, t->ne[0], scratch);
    }
    ggml_backend_tensor_set(t, converted.data(), 0, converted.size());
  }
  file_->drop_pages(source);
}

void Weights::load(const Progress& progress) {
  require(!loaded_, ErrorCode::internal, file_->path(), ": load() called twice");
  loaded_ = true;
  for (Group& group : groups_) {
    if (group.type == nullptr || ggml_get_first_tensor(group.context.get()) == nullptr) continue;
    group.buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(group.context.get(), group.type));
    require(group.buffer != nullptr, ErrorCode::out_of_memory, file_->path(), ": not enough memory on ",
            device_->name(), " for its weights; use a smaller quantisation or another device");
    ggml_backend_buffer_set_usage(group.buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    copied_bytes_ += ggml_backend_buffer_get_size(group.buffer.get());
  }

  // Tensors are independent of each other; a device with its own memory takes them one by one.
  const size_t workers = device_->is_host() ? std::min<size_t>(device_->n_threads(), pending_.size()) : 1;
  std::atomic<size_t> next{0};
  std::atomic<size_t> done{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&] {
    for (size_t i = next++; i < pending_.size(); i = next++) {
      try {
        fill(pending_[i]);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
        next = pending_.size();
      }
      const size_t finished = ++done;
      if (progress) {
        const std::lock_guard lock(mutex);
        progress(static_cast<float>(finished) / static_cast<float>(pending_.size()));
      }
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < workers; ++i) threads.emplace_back(work);
  work();
  for (std::thread& t : threads) t.join();
  if (failure) std::rethrow_exception(failure);
  pending_.clear();
  pending_.shrink_to_fit();
}

}  // namespace omni
