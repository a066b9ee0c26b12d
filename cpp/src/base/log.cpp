// base/log.cpp - the log sink, and ggml's messages routed into it.
#include "omni/log.h"

#include <memory>
#include <mutex>

#include "ggml.h"

namespace omni {
namespace {

struct SinkHolder {
  std::mutex mutex;
  std::shared_ptr<const LogSink> sink;
  LogLevel minimum = LogLevel::info;
  std::string partial;  // ggml ends a line in a later call now and then
};

SinkHolder& holder() {
  // Leaked on purpose: worker threads may still log while static objects are destroyed.
  static SinkHolder* const instance = new SinkHolder;  // NOLINT(cppcoreguidelines-owning-memory)
  return *instance;
}

void on_ggml_message(ggml_log_level level, const char* text, void* /*user*/) {
  std::string line;
  {
    SinkHolder& h = holder();
    const std::lock_guard lock(h.mutex);
    h.partial += text;
    if (h.partial.empty() || h.partial.back() != '\n') return;
    line.swap(h.partial);
  }
  line.pop_back();
  switch (level) {
    case GGML_LOG_LEVEL_ERROR:
      log(LogLevel::error, "ggml: " + line);
      break;
    case GGML_LOG_LEVEL_WARN:
      log(LogLevel::warning, "ggml: " + line);
      break;
    default:
      log(LogLevel::debug, "ggml: " + line);
      break;  // ggml's own info lines are details to us
  }
}

}  // namespace

void set_log_sink(LogSink sink, LogLevel minimum) {
  SinkHolder& h = holder();
  {
    const std::lock_guard lock(h.mutex);
    h.sink = sink ? std::make_shared<const LogSink>(std::move(sink)) : nullptr;
    h.minimum = minimum;
  }
  ggml_log_set(on_ggml_message, nullptr);
}

void log(LogLevel level, const std::string& message) {
  SinkHolder& h = holder();
  std::shared_ptr<const LogSink> sink;
  {
    const std::lock_guard lock(h.mutex);
    if (level < h.minimum) return;
    sink = h.sink;
  }
  if (sink) (*sink)(level, message);
}

}  // namespace omni
