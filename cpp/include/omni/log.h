// Logging: one sink for the engine's and ggml's messages. Quiet until a sink is set.
#pragma once

#include "omni/error.h"
#include "omni/export.h"

#include <functional>
#include <string>

namespace omni {

enum class LogLevel : int { debug = 0, info = 1, warning = 2, error = 3 };

using LogSink = std::function<void(LogLevel, const std::string&)>;

// Replaces the sink; an empty function silences. Thread-safe. The sink may be called from any thread.
OMNI_API void set_log_sink(LogSink sink, LogLevel minimum = LogLevel::info);
OMNI_API void log(LogLevel level, const std::string& message);

}  // namespace omni
