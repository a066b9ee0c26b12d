// bindings/session.cpp - the full-duplex logic for Python.
#include "omni/error.h"

#include <optional>

#include "bindings.h"
#include "session/language_model_session.h"

namespace omni::python {
namespace {

// The logic together with the model it drives.
class Duplex {
 public:
  Duplex(std::shared_ptr<LanguageModel> model, const Tokenizer& tokenizer, const DuplexOptions& options,
         int64_t n_ctx)
      : width_(model->info().width),
        session_(model, model->new_cache(n_ctx)),
        logic_(session_, tokenizer, options) {}

  DuplexLogic& logic() { return logic_; }
  const LanguageModelSession& session() const { return session_; }
  int64_t width() const { return width_; }

 private:
  int64_t width_;
  LanguageModelSession session_;
  DuplexLogic logic_;
};

// [n, width], or nothing.
std::span<const float> rows(const std::optional<FloatArray>& array, int64_t width, const char* what) {
  if (!array) return {};
  require(array->ndim() == 2 && array->shape(1) == width, ErrorCode::invalid_argument, what, " must be [n, ",
          width, "]");
  return view(*array);
}

void prefill(Duplex& duplex, const std::vector<std::vector<FloatArray>>& images,
             const std::optional<FloatArray>& audio, std::vector<int32_t> text_ids) {
  DuplexInput input;
  for (const auto& image : images) {
    auto& slices = input.images.emplace_back();
    for (const FloatArray& slice : image) slices.push_back(rows(slice, duplex.width(), "a picture's rows"));
  }
  input.audio = rows(audio, duplex.width(), "audio");
  input.text_ids = std::move(text_ids);
  const py::gil_scoped_release release;
  duplex.logic().prefill(input);
}

const char* name_of(WindowMode mode) {
  switch (mode) {
    case WindowMode::off:
      return "off";
    case WindowMode::basic:
      return "basic";
    case WindowMode::context:
      return "context";
  }
  return "";
}

}  // namespace

void register_session(py::module_& m) {
  py::class_<DuplexOptions>(m, "DuplexOptions")
      .def(py::init<>())
      .def_static("of_model", &DuplexOptions::of_model, py::arg("language_model_path"))
      .def_readwrite("max_new_speak_tokens_per_chunk", &DuplexOptions::max_new_speak_tokens_per_chunk)
      .def_readwrite("force_listen_count", &DuplexOptions::force_listen_count)
      .def_property(
          "sliding_window_mode", [](const DuplexOptions& o) { return name_of(o.sliding_window_mode); },
          [](DuplexOptions& o, const std::string& name) { o.sliding_window_mode = parse_window_mode(name); })
      .def_readwrite("basic_window_high_tokens", &DuplexOptions::basic_window_high_tokens)
      .def_readwrite("basic_window_low_tokens", &DuplexOptions::basic_window_low_tokens)
      .def_readwrite("context_previous_max_tokens", &DuplexOptions::context_previous_max_tokens)
      .def_readwrite("context_max_units", &DuplexOptions::context_max_units)
      .def_readwrite("max_unit_characters", &DuplexOptions::max_unit_characters)
      .def_readwrite("deferred_finalize", &DuplexOptions::deferred_finalize)
      .def_readwrite("reference_quirks", &DuplexOptions::reference_quirks)
      .def_property(
          "greedy", [](const DuplexOptions& o) { return o.sampling.greedy; },
          [](DuplexOptions& o, bool greedy) { o.sampling.greedy = greedy; })
      .def_property(
          "seed", [](const DuplexOptions& o) { return o.sampling.seed; },
          [](DuplexOptions& o, uint64_t seed) { o.sampling.seed = seed; })
      .def("set_sampling", [](DuplexOptions& o, bool greedy, float temperature, int top_k, float top_p,
                              float repetition_penalty, int penalty_window, float length_penalty,
                              float listen_prob_scale, std::optional<int> listen_top_k, uint64_t seed) {
        o.sampling = {greedy,
                      temperature,
                      top_k,
                      top_p,
                      repetition_penalty,
                      penalty_window,
                      length_penalty,
                      listen_prob_scale,
                      listen_top_k,
                      false,
                      seed};
      });

  py::class_<DuplexUnit>(m, "DuplexUnit")
      .def_readonly("rows", &DuplexUnit::rows)
      .def_readonly("is_listen", &DuplexUnit::is_listen)
      .def_readonly("spoken_ids", &DuplexUnit::spoken_ids);

  py::class_<DuplexResult>(m, "DuplexResult")
      .def_readonly("is_listen", &DuplexResult::is_listen)
      .def_readonly("end_of_turn", &DuplexResult::end_of_turn)
      .def_readonly("starts_turn", &DuplexResult::starts_turn)
      .def_readonly("text", &DuplexResult::text)
      .def_readonly("spoken_ids", &DuplexResult::spoken_ids)
      .def_readonly("ids", &DuplexResult::ids)
      .def_property_readonly("spoken_hidden", [](const DuplexResult& r) {
        const auto n = static_cast<py::ssize_t>(r.spoken_ids.size());
        const auto width = n == 0 ? 0 : static_cast<py::ssize_t>(r.spoken_hidden.size()) / n;
        return to_array(std::vector<float>(r.spoken_hidden), {n, width});
      });

  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<Duplex>(m, "DuplexLogic")
      .def(py::init<std::shared_ptr<LanguageModel>, const Tokenizer&, const DuplexOptions&, int64_t>(),
           py::arg("model"), py::arg("tokenizer"), py::arg("options"), py::arg("n_ctx") = 0)
      .def(
          "prepare",
          [](Duplex& d, const std::string& prefix, const std::optional<FloatArray>& reference,
             const std::string& suffix, const std::string& marker) {
            const std::span<const float> voice = rows(reference, d.width(), "the reference voice's rows");
            const py::gil_scoped_release release;
            d.logic().prepare(prefix, voice, suffix, marker);
          },
          py::arg("prefix"), py::arg("reference"), py::arg("suffix"), py::arg("previous_marker"))
      .def("prefill", &prefill, py::arg("images"), py::arg("audio"), py::arg("text_ids"))
      .def(
          "generate", [](Duplex& d, bool force_listen) { return d.logic().generate(force_listen); },
          py::arg("force_listen") = false, unlocked)
      .def(
          "finalize", [](Duplex& d) { d.logic().finalize(); }, unlocked)
      .def(
          "set_break", [](Duplex& d, bool on) { d.logic().set_break(on); }, py::arg("on"))
      .def("stop", [](Duplex& d) { d.logic().stop(); })
      .def("set_options_sampling",
           [](Duplex& d, const DuplexOptions& o) { d.logic().set_sampling(o.sampling); })
      .def_property_readonly("turn_is_open", [](Duplex& d) { return d.logic().turn_is_open(); })
      .def_property_readonly("units", [](Duplex& d) { return d.logic().units(); })
      .def_property_readonly("protected_rows", [](Duplex& d) { return d.logic().protected_rows(); })
      .def_property_readonly("previous", [](Duplex& d) { return d.logic().previous(); })
      .def_property_readonly("cache_length", [](Duplex& d) { return d.session().length(); })
      .def_property_readonly("schema", [](Duplex& d) { return d.logic().schema(); })
      .def("_keys", [](Duplex& d, int64_t layer, int64_t first, int64_t count) {
        std::vector<float> keys = d.session().cache().keys(layer, first, count);
        const auto size = static_cast<py::ssize_t>(keys.size());
        return to_array(std::move(keys),
                        {static_cast<py::ssize_t>(count), size / static_cast<py::ssize_t>(count)});
      });
}

}  // namespace omni::python
