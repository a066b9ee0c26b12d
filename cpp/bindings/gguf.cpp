// bindings/gguf.cpp - GGUF files and weight types, for the converter and omni.info.
#include "omni/error.h"

#include <string>

#include "base/gguf_file.h"
#include "bindings.h"
#include "kernels/quantize.h"

namespace omni::python {
namespace {

using ByteArray = py::array_t<uint8_t, py::array::c_style | py::array::forcecast>;

std::string type_text(ggml_type type) {
  std::string text = ggml_type_name(type);
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

// A file may hold any bytes where text belongs; broken characters are shown as U+FFFD.
py::str text(std::string_view bytes) {
  PyObject* made = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(made);
}

py::list tensor_list(const GgufFile& file) {
  py::list out;
  for (const GgufTensor& t : file.tensors()) {
    py::tuple ne(t.n_dims);
    for (int i = 0; i < t.n_dims; ++i) ne[static_cast<size_t>(i)] = t.ne[static_cast<size_t>(i)];
    out.append(py::make_tuple(text(t.name), type_text(t.type), ne, t.offset, t.size));
  }
  return out;
}

// Rows in the last axis; the other axes are only counted.
py::array_t<uint8_t> quantize(const FloatArray& values, const std::string& type_name, int n_threads) {
  require(values.ndim() > 0, ErrorCode::invalid_argument,
          "quantize() needs an array of at least one dimension");
  const ggml_type type = weight_type(type_name);
  const auto cols = static_cast<int64_t>(values.shape(values.ndim() - 1));
  std::vector<uint8_t> bytes;
  {
    const auto all = view(values);
    const py::gil_scoped_release release;
    bytes = quantize_rows(all, cols, type, n_threads);
  }
  const auto row_size = static_cast<py::ssize_t>(ggml_row_size(type, cols));
  const auto rows = static_cast<py::ssize_t>(bytes.size()) / row_size;
  return to_array(std::move(bytes), {rows, row_size});
}

py::array_t<float> dequantize(const ByteArray& bytes, const std::string& type_name, int64_t cols,
                              int n_threads) {
  const ggml_type type = weight_type(type_name);
  std::vector<float> values;
  {
    const auto all = view(bytes);
    const py::gil_scoped_release release;
    values = dequantize_rows(all, cols, type, n_threads);
  }
  const auto rows = static_cast<py::ssize_t>(values.size()) / static_cast<py::ssize_t>(cols);
  return to_array(std::move(values), {rows, static_cast<py::ssize_t>(cols)});
}

}  // namespace

void register_gguf(py::module_& m) {
  py::class_<GgufFile>(m, "GgufFile")
      .def(py::init<const std::string&>(), py::arg("path"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("path", &GgufFile::path)
      .def_property_readonly("file_size", &GgufFile::file_size)
      .def("keys",
           [](const GgufFile& f) {
             py::list out;
             for (const auto key : f.keys()) out.append(text(key));
             return out;
           })
      .def(
          "describe", [](const GgufFile& f, const std::string& key) { return text(f.describe(key)); },
          py::arg("key"))
      .def(
          "texts",
          [](const GgufFile& f, const std::string& key) {
            py::list out;
            for (const auto item : f.texts(key)) out.append(text(item));
            return out;
          },
          py::arg("key"))
      .def("tensors", &tensor_list);
  m.def("quantize", &quantize, py::arg("values"), py::arg("type"), py::arg("n_threads") = 0);
  m.def("dequantize", &dequantize, py::arg("bytes"), py::arg("type"), py::arg("cols"),
        py::arg("n_threads") = 0);
}

}  // namespace omni::python
