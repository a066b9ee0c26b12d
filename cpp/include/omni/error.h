// The one exception type of the engine. Its message is for users: which file, tensor or value, and what to
// do.
#pragma once

#include "omni/export.h"

#include <sstream>
#include <stdexcept>
#include <string>

namespace omni {

// The values are part of the C interface (omni_status in omni.h): append only.
enum class ErrorCode : int {
  ok = 0,
  invalid_argument = 1,  // a value the caller gave is unusable
  file = 2,              // a file is missing or can't be read
  format = 3,            // a file's content is damaged, hostile, or of another model
  unsupported = 4,       // well-formed, but this build or device can't do it
  context_full = 5,      // the KV cache has no room for the tokens
  out_of_memory = 6,
  device = 7,     // a compute device failed or was lost
  cancelled = 8,  // stopped on request
  internal = 9,   // a fault of omni itself
};

class OMNI_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

// Joins its arguments as text: str("tensor ", name, " has ", n, " elements").
template <typename... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Throws Error with the joined arguments as message.
template <typename... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  throw Error(code, str(parts...));
}

// Throws Error(code) with the joined arguments unless `condition` holds.
template <typename... Parts>
void require(bool condition, ErrorCode code, const Parts&... parts) {
  if (!condition) fail(code, parts...);
}

}  // namespace omni
