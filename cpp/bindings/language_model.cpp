// bindings/language_model.cpp - LanguageModel and KvCache for Python.
#include "omni/language_model.h"

#include "omni/error.h"

#include <numeric>

#include "bindings.h"

namespace omni::python {
namespace {

// Token ids [n], or embeddings [n, width]: integers or floats decide.
struct Input {
  IntArray ids;
  FloatArray embeds;
  bool is_ids = false;
  size_t n = 0;
};

Input parse_input(const py::object& input, int64_t width) {
  Input out;
  const auto array = py::array::ensure(input);
  require(static_cast<bool>(array), ErrorCode::invalid_argument,
          "input must be token ids [n] or embeddings [n, ", width, "]");
  if (array.ndim() == 1 && (array.dtype().kind() == 'i' || array.dtype().kind() == 'u')) {
    out.is_ids = true;
    out.ids = IntArray::ensure(array);
    out.n = static_cast<size_t>(array.shape(0));
    return out;
  }
  require(array.ndim() == 2 && array.dtype().kind() == 'f' && array.shape(1) == width,
          ErrorCode::invalid_argument, "input must be integer token ids [n] or float embeddings [n, ", width,
          "]");
  out.embeds = FloatArray::ensure(array);
  out.n = static_cast<size_t>(array.shape(0));
  return out;
}

// "last", "all", "none", or a list of row indices.
std::vector<int32_t> parse_rows(const py::object& logits, size_t n) {
  if (!py::isinstance<py::str>(logits)) return logits.cast<std::vector<int32_t>>();
  const auto name = logits.cast<std::string>();
  if (name == "none" || n == 0) return {};
  if (name == "last") return {static_cast<int32_t>(n) - 1};
  require(name == "all", ErrorCode::invalid_argument,
          "logits must be 'all', 'last', 'none' or a list of rows, not '", name, "'");
  std::vector<int32_t> rows(n);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

py::tuple forward(LanguageModel& model, KvCache& cache, const py::object& input, const py::object& logits,
                  bool all_hidden) {
  const LanguageModelInfo& info = model.info();
  const Input in = parse_input(input, info.width);
  const std::vector<int32_t> rows = parse_rows(logits, in.n);
  const Hidden hidden = all_hidden ? Hidden::all : Hidden::rows;
  ForwardResult result;
  {
    const std::span<const int32_t> ids = in.is_ids ? view(in.ids) : std::span<const int32_t>();
    const std::span<const float> embeds = in.is_ids ? std::span<const float>() : view(in.embeds);
    const py::gil_scoped_release release;
    if (in.is_ids) {
      model.forward(cache, ids, rows, hidden, result);
    } else {
      model.forward(cache, embeds, rows, hidden, result);
    }
  }
  const auto n_rows = static_cast<py::ssize_t>(rows.size());
  const auto n_hidden = all_hidden ? static_cast<py::ssize_t>(in.n) : n_rows;
  return py::make_tuple(to_array(std::move(result.hidden), {n_hidden, static_cast<py::ssize_t>(info.width)}),
                        to_array(std::move(result.logits), {n_rows, static_cast<py::ssize_t>(info.n_vocab)}));
}

py::array_t<float> embed(const LanguageModel& model, const IntArray& ids) {
  std::vector<float> out(static_cast<size_t>(ids.size() * model.info().width));
  {
    const std::span<const int32_t> values = view(ids);
    const py::gil_scoped_release release;
    model.embed(values, out);
  }
  return to_array(std::move(out), {ids.size(), static_cast<py::ssize_t>(model.info().width)});
}

py::array_t<float> heads(const LanguageModelInfo& info, std::vector<float> values, int64_t count) {
  return to_array(std::move(values),
                  {static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(info.n_kv_heads),
                   static_cast<py::ssize_t>(info.head_dim)});
}

}  // namespace

void register_language_model(py::module_& m) {
  py::class_<DeviceInfo>(m, "DeviceInfo")
      .def_readonly("name", &DeviceInfo::name)
      .def_readonly("description", &DeviceInfo::description)
      .def_readonly("kind", &DeviceInfo::kind)
      .def_readonly("memory_free", &DeviceInfo::memory_free)
      .def_readonly("memory_total", &DeviceInfo::memory_total);
  m.def("list_devices", &list_devices);
  m.def("cpu_features", &cpu_features);
  m.def("default_threads", &default_threads);

  py::class_<LanguageModelInfo>(m, "LanguageModelInfo")
      .def_readonly("architecture", &LanguageModelInfo::architecture)
      .def_readonly("n_layers", &LanguageModelInfo::n_layers)
      .def_readonly("width", &LanguageModelInfo::width)
      .def_readonly("n_vocab", &LanguageModelInfo::n_vocab)
      .def_readonly("n_heads", &LanguageModelInfo::n_heads)
      .def_readonly("n_kv_heads", &LanguageModelInfo::n_kv_heads)
      .def_readonly("head_dim", &LanguageModelInfo::head_dim)
      .def_readonly("ffn_width", &LanguageModelInfo::ffn_width)
      .def_readonly("n_ctx_train", &LanguageModelInfo::n_ctx_train)
      .def_readonly("parameters", &LanguageModelInfo::parameters)
      .def_readonly("file_bytes", &LanguageModelInfo::file_bytes)
      .def_readonly("copied_bytes", &LanguageModelInfo::copied_bytes)
      .def_readonly("matrix_parameters", &LanguageModelInfo::matrix_parameters)
      .def_readonly("matrix_bytes", &LanguageModelInfo::matrix_bytes)
      .def_readonly("matrix_type", &LanguageModelInfo::matrix_type);

  py::class_<KvCache>(m, "KvCache")
      .def("__len__", &KvCache::length)
      .def_property_readonly("length", &KvCache::length)
      .def_property_readonly("capacity", &KvCache::capacity)
      .def_property_readonly("bytes", &KvCache::bytes)
      .def("reset", &KvCache::reset)
      .def("truncate", &KvCache::truncate, py::arg("length"))
      .def("extend", &KvCache::extend, py::arg("length"))
      .def("remove", &KvCache::remove, py::arg("first"), py::arg("count"),
           py::call_guard<py::gil_scoped_release>())
      .def("move", &KvCache::move, py::arg("first"), py::arg("count"), py::arg("target"),
           py::call_guard<py::gil_scoped_release>())
      .def("clone", &KvCache::clone, py::call_guard<py::gil_scoped_release>());

  py::class_<LanguageModel, std::shared_ptr<LanguageModel>>(m, "LanguageModel")
      .def_static(
          "open",
          [](const std::string& path, int n_ctx, int n_batch, int n_threads, const std::string& device,
             int poll, const std::string& kv_type, const std::string& weight_format, bool repack) {
            const py::gil_scoped_release release;
            return LanguageModel::open(
                path, {n_ctx, n_batch, kv_type, weight_format, repack, {device, n_threads, poll}});
          },
          py::arg("path"), py::kw_only(), py::arg("n_ctx"), py::arg("n_batch"), py::arg("n_threads"),
          py::arg("device"), py::arg("poll"), py::arg("kv_type"), py::arg("weight_format"), py::arg("repack"))
      .def_static(
          "synthetic",
          [](const std::string& type, int64_t n_layers, int n_ctx, int n_batch, int n_threads,
             const std::string& device, int poll, const std::string& kv_type,
             const std::string& weight_format, bool repack) {
            const py::gil_scoped_release release;
            SyntheticLanguageModel sizes;
            sizes.type = type;
            sizes.n_layers = n_layers;
            return LanguageModel::synthetic(
                sizes, {n_ctx, n_batch, kv_type, weight_format, repack, {device, n_threads, poll}});
          },
          py::arg("type"), py::arg("n_layers"), py::kw_only(), py::arg("n_ctx"), py::arg("n_batch"),
          py::arg("n_threads"), py::arg("device"), py::arg("poll"), py::arg("kv_type"),
          py::arg("weight_format"), py::arg("repack"))
      .def_property_readonly("info", &LanguageModel::info)
      .def_property_readonly("device_name", &LanguageModel::device_name)
      .def("embed", &embed, py::arg("ids"))
      .def("new_cache", &LanguageModel::new_cache, py::arg("n_ctx") = 0,
           py::call_guard<py::gil_scoped_release>())
      .def("forward", &forward, py::arg("cache"), py::arg("input"), py::arg("logits"), py::arg("all_hidden"))
      .def("_keys", [](const LanguageModel& model, const KvCache& cache, int64_t layer, int64_t first,
                       int64_t count) { return heads(model.info(), cache.keys(layer, first, count), count); })
      .def("_values",
           [](const LanguageModel& model, const KvCache& cache, int64_t layer, int64_t first, int64_t count) {
             return heads(model.info(), cache.values(layer, first, count), count);
           });
}

}  // namespace omni::python
