// bindings/errors.cpp - omni::Error as Python exceptions, and the log sink.
#include "omni/error.h"
#include "omni/log.h"

#include <new>

#include "bindings.h"

namespace omni::python {
namespace {

// One Python class for each kind of error, so that callers can tell them apart without reading messages.
const char* class_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return "InvalidArgumentError";
    case ErrorCode::file:
      return "ModelFileError";
    case ErrorCode::format:
      return "FormatError";
    case ErrorCode::unsupported:
      return "UnsupportedError";
    case ErrorCode::context_full:
      return "ContextFullError";
    case ErrorCode::out_of_memory:
      return "OutOfMemoryError";
    case ErrorCode::device:
      return "DeviceError";
    case ErrorCode::cancelled:
      return "CancelledError";
    default:
      return "OmniError";
  }
}

void raise(ErrorCode code, const char* message) {
  const py::object cls = py::module_::import("omni.errors").attr(class_name(code));
  PyErr_SetString(cls.ptr(), message);
}

void translate(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const Error& e) {
    raise(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    raise(ErrorCode::out_of_memory, "not enough memory; use a smaller quantisation, context or batch");
  }
}

// The Python callable must be dropped with the GIL held, wherever the last reference dies.
LogSink python_sink(py::function callback) {
  std::shared_ptr<py::function> shared(new py::function(std::move(callback)), [](py::function* f) {
    const py::gil_scoped_acquire gil;
    delete f;
  });
  return [shared](LogLevel level, const std::string& message) {
    const py::gil_scoped_acquire gil;
    try {
      (*shared)(static_cast<int>(level), message);
    } catch (py::error_already_set& e) {
      e.discard_as_unraisable("omni log sink");
    }
  };
}

}  // namespace

void register_errors(py::module_& m) {
  py::register_exception_translator(&translate);
  m.def(
      "set_log_sink",
      [](const std::optional<py::function>& callback, int minimum) {
        LogSink sink = callback ? python_sink(*callback) : LogSink();
        const py::gil_scoped_release release;
        set_log_sink(std::move(sink), static_cast<LogLevel>(minimum));
      },
      py::arg("callback"), py::arg("minimum") = 1);
}

}  // namespace omni::python
