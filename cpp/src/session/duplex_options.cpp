// session/duplex_options.cpp - what a model's files say about its sessions.
#include "omni/duplex.h"
#include "omni/error.h"

#include "base/gguf_file.h"

namespace omni {

WindowMode parse_window_mode(std::string_view name) {
  if (name == "off") return WindowMode::off;
  if (name == "basic") return WindowMode::basic;
  if (name == "context") return WindowMode::context;
  fail(ErrorCode::invalid_argument, "sliding_window_mode '", name, "' is none of off, basic, context");
}

DuplexOptions DuplexOptions::of_model(const std::string& language_model_path) {
  const GgufFile file(language_model_path);
  DuplexOptions options;
  const auto read = [&](const char* key, int64_t& value) {
    value = file.u32(key, static_cast<uint32_t>(value));
  };
  if (file.has("omni.duplex.sliding_window_mode")) {
    options.sliding_window_mode = parse_window_mode(file.text("omni.duplex.sliding_window_mode"));
  }
  read("omni.duplex.basic_window_high_tokens", options.basic_window_high_tokens);
  read("omni.duplex.basic_window_low_tokens", options.basic_window_low_tokens);
  read("omni.duplex.context_previous_max_tokens", options.context_previous_max_tokens);
  read("omni.duplex.context_max_units", options.context_max_units);
  return options;
}

}  // namespace omni
