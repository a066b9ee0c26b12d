// bindings/speech.cpp - SpeechModel and SpeechStream for Python.
#include "omni/speech.h"

#include "omni/error.h"

#include "bindings.h"

namespace omni::python {
namespace {

// Hidden states as [n, D].
std::span<const float> rows(const FloatArray& array, size_t n, int64_t width) {
  require(array.ndim() == 2 && static_cast<size_t>(array.shape(0)) == n && array.shape(1) == width,
          ErrorCode::invalid_argument, "hidden states must be an array [", n, ", ", width, "]");
  return view(array);
}

py::array_t<float> matrix(std::vector<float>&& values, size_t n, int64_t width) {
  return to_array(std::move(values), {static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(width)});
}

SpeechModelOptions model_options(int n_ctx, int n_threads, const std::string& device, int poll,
                                 const std::string& kv_type, const std::string& weight_format, bool repack) {
  return {n_ctx, kv_type, weight_format, repack, {device, n_threads, poll}};
}

py::array_t<float> condition(const SpeechModel& model, const IntArray& ids,
                             const std::optional<FloatArray>& hidden) {
  const auto n = static_cast<size_t>(ids.size());
  const auto states = hidden ? rows(*hidden, n, model.info().llm_width) : std::span<const float>();
  std::vector<float> out(n * static_cast<size_t>(model.info().width));
  {
    const std::span<const int32_t> values = view(ids);
    const py::gil_scoped_release release;
    model.condition(values, states, out);
  }
  return matrix(std::move(out), n, model.info().width);
}

py::array_t<float> embed(const SpeechModel& model, const IntArray& ids) {
  const auto n = static_cast<size_t>(ids.size());
  std::vector<float> out(n * static_cast<size_t>(model.info().width));
  model.embed(view(ids), out);
  return matrix(std::move(out), n, model.info().width);
}

py::tuple evaluate(const SpeechModel& model, const FloatArray& input) {
  const SpeechModelInfo& info = model.info();
  require(input.ndim() == 2 && input.shape(1) == info.width, ErrorCode::invalid_argument,
          "rows must be an array [n, ", info.width, "]");
  const auto n = static_cast<size_t>(input.shape(0));
  std::vector<float> hidden(n * static_cast<size_t>(info.width));
  std::vector<float> logits(n * static_cast<size_t>(info.n_codes));
  {
    const std::span<const float> values = view(input);
    const py::gil_scoped_release release;
    model.evaluate(values, hidden, logits);
  }
  return py::make_tuple(matrix(std::move(hidden), n, info.width), matrix(std::move(logits), n, info.n_codes));
}

}  // namespace

void register_speech(py::module_& m) {
  py::class_<SpeechModelInfo>(m, "SpeechModelInfo")
      .def_readonly("n_layers", &SpeechModelInfo::n_layers)
      .def_readonly("width", &SpeechModelInfo::width)
      .def_readonly("llm_width", &SpeechModelInfo::llm_width)
      .def_readonly("n_heads", &SpeechModelInfo::n_heads)
      .def_readonly("head_dim", &SpeechModelInfo::head_dim)
      .def_readonly("ffn_width", &SpeechModelInfo::ffn_width)
      .def_readonly("n_text", &SpeechModelInfo::n_text)
      .def_readonly("n_codes", &SpeechModelInfo::n_codes)
      .def_readonly("end_of_speech", &SpeechModelInfo::end_of_speech)
      .def_readonly("audio_bos", &SpeechModelInfo::audio_bos)
      .def_readonly("text_eos", &SpeechModelInfo::text_eos)
      .def_readonly("parameters", &SpeechModelInfo::parameters)
      .def_readonly("copied_bytes", &SpeechModelInfo::copied_bytes)
      .def_readonly("matrix_parameters", &SpeechModelInfo::matrix_parameters)
      .def_readonly("matrix_bytes", &SpeechModelInfo::matrix_bytes)
      .def_readonly("matrix_type", &SpeechModelInfo::matrix_type);

  py::class_<SpeechStream>(m, "SpeechStream")
      .def(
          "push",
          [](SpeechStream& stream, const IntArray& ids, const FloatArray& hidden, int64_t llm_width,
             bool last) {
            const auto states = rows(hidden, static_cast<size_t>(ids.size()), llm_width);
            const std::span<const int32_t> values = view(ids);
            const py::gil_scoped_release release;
            stream.push(values, states, last);
          },
          py::arg("ids"), py::arg("hidden"), py::arg("llm_width"), py::arg("last"))
      .def(
          "push_conditions",
          [](SpeechStream& stream, const FloatArray& values, bool last) {
            const std::span<const float> all = view(values);
            const py::gil_scoped_release release;
            stream.push_conditions(all, last);
          },
          py::arg("rows"), py::arg("last"))
      .def("next",
           [](SpeechStream& stream) {
             std::vector<int32_t> tokens;
             {
               const py::gil_scoped_release release;
               stream.next(tokens);
             }
             return tokens;
           })
      .def("flush",
           [](SpeechStream& stream) {
             std::vector<int32_t> tokens;
             {
               const py::gil_scoped_release release;
               stream.flush(tokens);
             }
             return tokens;
           })
      .def("clone", &SpeechStream::clone, py::call_guard<py::gil_scoped_release>())
      .def("reset", &SpeechStream::reset, py::call_guard<py::gil_scoped_release>())
      .def("position", &SpeechStream::position, py::call_guard<py::gil_scoped_release>())
      .def("n_cached", &SpeechStream::n_cached, py::call_guard<py::gil_scoped_release>());

  py::class_<SpeechModel, std::shared_ptr<SpeechModel>>(m, "SpeechModel")
      .def_static(
          "open",
          [](const std::string& speech, const std::string& projector, int n_ctx, int n_threads,
             const std::string& device, int poll, const std::string& kv_type,
             const std::string& weight_format, bool repack) {
            const py::gil_scoped_release release;
            return SpeechModel::open(
                speech, projector,
                model_options(n_ctx, n_threads, device, poll, kv_type, weight_format, repack));
          },
          py::arg("speech"), py::arg("projector"), py::kw_only(), py::arg("n_ctx"), py::arg("n_threads"),
          py::arg("device"), py::arg("poll"), py::arg("kv_type"), py::arg("weight_format"), py::arg("repack"))
      .def_static(
          "synthetic",
          [](const std::string& type, int64_t n_layers, int n_ctx, int n_threads, const std::string& device,
             int poll, const std::string& kv_type, const std::string& weight_format, bool repack) {
            const py::gil_scoped_release release;
            SyntheticSpeechModel sizes;
            sizes.type = type;
            sizes.n_layers = n_layers;
            return SpeechModel::synthetic(
                sizes, model_options(n_ctx, n_threads, device, poll, kv_type, weight_format, repack));
          },
          py::arg("type"), py::arg("n_layers"), py::kw_only(), py::arg("n_ctx"), py::arg("n_threads"),
          py::arg("device"), py::arg("poll"), py::arg("kv_type"), py::arg("weight_format"), py::arg("repack"))
      .def_property_readonly("info", &SpeechModel::info)
      .def_property_readonly("device_name", &SpeechModel::device_name)
      .def(
          "stream",
          [](SpeechModel& model, const std::string& mode, float temperature, bool greedy, uint64_t seed,
             float repetition_penalty, float top_p, int top_k, std::optional<int> min_tokens,
             std::optional<int> max_tokens, const std::string& attention, int window) {
            const auto count = [](const char* name, std::optional<int> value) {
              require(!value || *value >= 0, ErrorCode::invalid_argument, name, " is ", value.value_or(0),
                      ", it must be 0 or more");
              return value.value_or(-1);
            };
            const SpeechStreamOptions options{.mode = parse_speech_mode(mode),
                                              .greedy = greedy,
                                              .temperature = temperature,
                                              .repetition_penalty = repetition_penalty,
                                              .top_p = top_p,
                                              .top_k = top_k,
                                              .seed = seed,
                                              .min_tokens = count("min_tokens", min_tokens),
                                              .max_tokens = count("max_tokens", max_tokens),
                                              .attention = parse_speech_attention(attention),
                                              .window = window};
            const py::gil_scoped_release release;
            return model.stream(options);
          },
          py::kw_only(), py::arg("mode"), py::arg("temperature"), py::arg("greedy"), py::arg("seed"),
          py::arg("repetition_penalty"), py::arg("top_p"), py::arg("top_k"), py::arg("min_tokens"),
          py::arg("max_tokens"), py::arg("attention"), py::arg("window"))
      .def("condition", &condition, py::arg("ids"), py::arg("hidden"))
      .def("embed", &embed, py::arg("ids"))
      .def("evaluate", &evaluate, py::arg("rows"));
}

}  // namespace omni::python
