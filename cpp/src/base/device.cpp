// base/device.cpp - opening devices, threads of the host processor.
#include "base/device.h"

#include "omni/error.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>
#include <thread>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif

namespace omni {
namespace {

// The registry's functions that only some devices have, by the names ggml gives them.
template <typename Function>
Function registry_function(ggml_backend_dev_t device, const char* name) {
  ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(device);
  return registry == nullptr ? nullptr
                             : reinterpret_cast<Function>(ggml_backend_reg_get_proc_address(registry, name));
}

ggml_backend_dev_t host_device() {
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  require(device != nullptr, ErrorCode::device, "this build of ggml has no CPU backend");
  return device;
}

const char* kind_name(enum ggml_backend_dev_type type) {
  switch (type) {
    case GGML_BACKEND_DEVICE_TYPE_CPU:
      return "cpu";
    case GGML_BACKEND_DEVICE_TYPE_GPU:
      return "gpu";
    case GGML_BACKEND_DEVICE_TYPE_IGPU:
      return "igpu";
    default:
      return "accel";
  }
}

ggml_backend_dev_t find_device(const std::string& name) {
  if (name.empty()) return host_device();
  std::string known;
  for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    const auto type = ggml_backend_dev_type(device);
    const bool gpu = type == GGML_BACKEND_DEVICE_TYPE_GPU || type == GGML_BACKEND_DEVICE_TYPE_IGPU;
    if (name == ggml_backend_dev_name(device) || (name == "gpu" && gpu)) return device;
    known += str(known.empty() ? "" : ", ", ggml_backend_dev_name(device));
  }
  if (name == "cpu") return host_device();
  fail(ErrorCode::invalid_argument, "there is no device '", name, "'; this build sees: ", known);
}

std::vector<std::string> features_of(ggml_backend_dev_t device) {
  std::vector<std::string> names;
  const auto get = registry_function<ggml_backend_get_features_t>(device, "ggml_backend_get_features");
  if (get == nullptr) return names;
  for (const ggml_backend_feature* f = get(ggml_backend_dev_backend_reg(device)); f->name != nullptr; ++f) {
    if (std::strcmp(f->value, "0") != 0) names.emplace_back(f->name);
  }
  return names;
}

}  // namespace

std::vector<DeviceInfo> list_devices() {
  std::vector<DeviceInfo> out;
  for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    size_t free = 0;
    size_t total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    out.push_back({ggml_backend_dev_name(device), ggml_backend_dev_description(device),
                   kind_name(ggml_backend_dev_type(device)), free, total});
  }
  return out;
}

std::vector<std::string> cpu_features() {
  return features_of(host_device());
}

int default_threads() {
  int usable = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) {
    usable = std::max(1, CPU_COUNT(&allowed));
    // Two hardware threads of one core share its arithmetic units, so they count once.
    std::set<std::pair<int, int>> cores;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      const std::string topology = str("/sys/devices/system/cpu/cpu", cpu, "/topology/");
      int package = 0;
      int core = -1;
      std::ifstream(topology + "physical_package_id") >> package;
      std::ifstream(topology + "core_id") >> core;
      if (core >= 0) cores.emplace(package, core);
    }
    if (!cores.empty()) usable = static_cast<int>(cores.size());
  }
#endif
  return usable;
}

Device::Device(const DeviceOptions& options)
    : device_(find_device(options.name)),
      n_threads_(options.n_threads > 0 ? options.n_threads : default_threads()),
      poll_(std::clamp(options.poll, 0, 100)) {
  require(options.n_threads >= 0 && options.n_threads <= GGML_MAX_N_THREADS, ErrorCode::invalid_argument,
          "n_threads is ", options.n_threads, ", it must be 0 (automatic) to ", GGML_MAX_N_THREADS);
  backend_.reset(ggml_backend_dev_init(device_, nullptr));
  require(backend_ != nullptr, ErrorCode::device, "device ", ggml_backend_dev_name(device_),
          " can't be opened");
  ggml_backend_dev_t host = host_device();
  if (device_ != host) {
    host_.reset(ggml_backend_dev_init(host, nullptr));
    require(host_ != nullptr, ErrorCode::device, "the CPU backend can't be opened");
  }
  use_threads(host_backend());
  if (const auto extra = registry_function<ggml_backend_dev_get_extra_bufts_t>(
          device_, "ggml_backend_dev_get_extra_bufts")) {
    for (ggml_backend_buffer_type_t* type = extra(device_); type != nullptr && *type != nullptr; ++type) {
      repack_types_.push_back(*type);
    }
  }
}

Device::~Device() {
  // The backends let go of the thread pool before it ends.
  backend_.reset();
  host_.reset();
}

void Device::use_threads(ggml_backend_t host) {
  using NewPool = ggml_threadpool_t (*)(ggml_threadpool_params*);
  using FreePool = void (*)(ggml_threadpool_t);
  using SetPool = void (*)(ggml_backend_t, ggml_threadpool_t);
  ggml_backend_dev_t device = ggml_backend_get_device(host);
  const auto set_threads =
      registry_function<ggml_backend_set_n_threads_t>(device, "ggml_backend_set_n_threads");
  if (set_threads != nullptr) set_threads(host, n_threads_);
  const auto create = registry_function<NewPool>(device, "ggml_threadpool_new");
  const auto destroy = registry_function<FreePool>(device, "ggml_threadpool_free");
  const auto attach = registry_function<SetPool>(device, "ggml_backend_cpu_set_threadpool");
  if (create == nullptr || destroy == nullptr || attach == nullptr) return;
  // Without a pool of its own ggml starts and joins threads for every graph.
  ggml_threadpool_params params = ggml_threadpool_params_default(n_threads_);
  params.poll = static_cast<uint32_t>(poll_);
  ggml_threadpool_t pool = create(&params);
  require(pool != nullptr, ErrorCode::device, "can't start ", n_threads_, " threads");
  threads_ = std::shared_ptr<void>(pool, [destroy](void* p) { destroy(static_cast<ggml_threadpool_t>(p)); });
  attach(host, pool);
}

std::string Device::name() const {
  return ggml_backend_dev_name(device_);
}

ggml_backend_buffer_type_t Device::buffer_type() const {
  return ggml_backend_get_default_buffer_type(backend_.get());
}

bool Device::has_feature(const std::string& feature) const {
  const std::vector<std::string> names = features_of(ggml_backend_get_device(host_backend()));
  return std::find(names.begin(), names.end(), feature) != names.end();
}

}  // namespace omni
