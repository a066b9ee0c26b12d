// bindings/bindings.h - what the register_x() files share.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace omni::python {

namespace py = pybind11;

// A C-contiguous float32 array; other arrays are converted on the way in.
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using IntArray = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

template <typename T, int Flags>
std::span<const T> view(const py::array_t<T, Flags>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

// Hands a vector to NumPy without a copy; the array owns it.
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owned->data();
  const py::capsule owner(owned.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(std::move(shape), data, owner);
}

void register_audio(py::module_& m);
void register_bench(py::module_& m);
void register_duplex_session(py::module_& m);
void register_session(py::module_& m);
void register_errors(py::module_& m);
void register_gguf(py::module_& m);
void register_language_model(py::module_& m);
void register_speech(py::module_& m);
void register_token2wav(py::module_& m);
void register_vision(py::module_& m);
void register_text(py::module_& m);
void register_sampler(py::module_& m);
void register_voice(py::module_& m);

}  // namespace omni::python
