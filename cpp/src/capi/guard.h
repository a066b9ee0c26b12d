// capi/guard.h - how exceptions become status codes: in `guarded` and nowhere else.
#pragma once

#include "omni/error.h"
#include "omni/omni.h"

#include <exception>
#include <new>
#include <string>

namespace omni::capi {

// Keeps the message for omni_last_error() and gives the status back.
omni_status failed(omni_status status, const char* message) noexcept;

// Runs `body` and turns what it throws into a status.
template <typename Body>
omni_status guarded(const Body& body) noexcept {
  try {
    body();
    return OMNI_OK;
  } catch (const Error& e) {
    return failed(static_cast<omni_status>(e.code()), e.what());
  } catch (const std::bad_alloc&) {
    return failed(OMNI_OUT_OF_MEMORY, "not enough memory; use a smaller quantisation, context or batch");
  } catch (const std::exception& e) {
    return failed(OMNI_INTERNAL, e.what());
  } catch (...) {
    return failed(OMNI_INTERNAL, "an unknown exception");
  }
}

inline void require_pointer(const void* pointer, const char* name) {
  require(pointer != nullptr, ErrorCode::invalid_argument, name, " is NULL");
}

// An array that may be NULL if it is empty.
inline void require_array(const void* array, size_t size, const char* name) {
  require(array != nullptr || size == 0, ErrorCode::invalid_argument, name, " is NULL");
}

inline std::string text_or(const char* text, const char* fallback) {
  return text != nullptr ? text : fallback;
}

}  // namespace omni::capi
