// capi/omni.cpp - the C interface: version, errors, messages and devices.
#include "omni/omni.h"

#include "omni/devices.h"
#include "omni/log.h"

#include <string>
#include <vector>

#include "capi/guard.h"

namespace omni::capi {
namespace {

std::string& last_error() {
  thread_local std::string message;
  return message;
}

}  // namespace

omni_status failed(omni_status status, const char* message) noexcept {
  try {
    last_error() = message;
  } catch (...) {
    last_error().clear();  // no memory even for the message
  }
  return status;
}

}  // namespace omni::capi

using namespace omni::capi;
using omni::ErrorCode;
using omni::require;

const char* omni_version(void) {
  return OMNI_VERSION;
}

const char* omni_status_name(int status) {
  switch (status) {
    case OMNI_OK:
      return "ok";
    case OMNI_INVALID_ARGUMENT:
      return "invalid argument";
    case OMNI_FILE:
      return "file error";
    case OMNI_FORMAT:
      return "format error";
    case OMNI_UNSUPPORTED:
      return "unsupported";
    case OMNI_CONTEXT_FULL:
      return "context full";
    case OMNI_OUT_OF_MEMORY:
      return "out of memory";
    case OMNI_DEVICE:
      return "device error";
    case OMNI_CANCELLED:
      return "cancelled";
    case OMNI_INTERNAL:
      return "internal error";
  }
  return "unknown status";
}

const char* omni_last_error(void) {
  return last_error().c_str();
}

void omni_set_log(omni_log_callback callback, omni_log_level minimum, void* user) {
  guarded([&] {
    omni::LogSink sink;
    if (callback != nullptr) {
      sink = [callback, user](omni::LogLevel level, const std::string& message) {
        callback(static_cast<omni_log_level>(level), message.c_str(), user);
      };
    }
    omni::set_log_sink(std::move(sink), static_cast<omni::LogLevel>(minimum));
  });
}

size_t omni_device_count(void) {
  size_t count = 0;
  guarded([&] { count = omni::list_devices().size(); });
  return count;
}

omni_status omni_device_get(size_t index, omni_device_info* info) {
  return guarded([&] {
    require_pointer(info, "info");
    thread_local omni::DeviceInfo device;
    const std::vector<omni::DeviceInfo> devices = omni::list_devices();
    require(index < devices.size(), ErrorCode::invalid_argument, "there is no device ", index);
    device = devices[index];
    *info = {device.name.c_str(), device.description.c_str(), device.kind.c_str(), device.memory_free,
             device.memory_total};
  });
}
