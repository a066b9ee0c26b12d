// bindings/session.cpp - the full-duplex logic and the windows of spoken turns for Python.
#include "omni/duplex_networks.h"
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

  struct Snapshot {
    std::shared_ptr<const DuplexLogic::Snapshot> logic;
    std::unique_ptr<KvCache> cache;
  };
  std::unique_ptr<Snapshot> save() const {
    return std::make_unique<Snapshot>(Snapshot{logic_.save(), session_.cache().clone()});
  }
  void restore(const Snapshot& snapshot) {
    session_.restore(*snapshot.cache);
    logic_.restore(*snapshot.logic);
  }

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

std::unique_ptr<TokenWindows> make_windows(std::shared_ptr<Token2Wav> model, const Voice& voice, int steps,
                                           uint64_t seed, const FloatArray& noise, bool excitation,
                                           bool flush_every_unit) {
  DuplexSoundOptions options;
  options.stream = {steps, seed, false, {noise.data(), noise.data() + noise.size()}, excitation};
  options.flush_every_unit = flush_every_unit;
  const py::gil_scoped_release release;
  return std::make_unique<TokenWindows>(std::move(model), std::make_shared<const Voice>(voice), options);
}

py::array_t<float> render(TokenWindows& windows, const IntArray& tokens, bool starts_turn, bool end_of_turn) {
  std::vector<float> wave;
  const std::span<const int32_t> ids = view(tokens);
  {
    const py::gil_scoped_release release;
    windows.render(ids, starts_turn, end_of_turn, wave);
  }
  const auto n = static_cast<py::ssize_t>(wave.size());
  return to_array(std::move(wave), {n});
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
  py::class_<Duplex::Snapshot>(m, "DuplexSnapshot");

  py::class_<TokenWindows>(m, "TokenWindows")
      .def(py::init(&make_windows), py::arg("model"), py::arg("voice"), py::kw_only(), py::arg("steps"),
           py::arg("seed"), py::arg("noise"), py::arg("excitation"), py::arg("flush_every_unit"))
      .def("render", &render, py::arg("tokens"), py::arg("starts_turn"), py::arg("end_of_turn"))
      .def("cancel", &TokenWindows::cancel, unlocked)
      .def("clone", &TokenWindows::clone, unlocked)
      .def_property_readonly("buffered", [](const TokenWindows& w) {
        return std::vector<int32_t>(w.buffered().begin(), w.buffered().end());
      });

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
      .def(
          "make_room", [](Duplex& d, int64_t count) { d.logic().make_room(count); }, py::arg("rows"),
          unlocked)
      .def("prefill", &prefill, py::arg("images"), py::arg("audio"), py::arg("text_ids"))
      .def(
          "generate", [](Duplex& d, bool force_listen) { return d.logic().generate(force_listen); },
          py::arg("force_listen") = false, unlocked)
      .def(
          "finalize", [](Duplex& d) { d.logic().finalize(); }, unlocked)
      .def(
          "set_break", [](Duplex& d, bool on) { d.logic().set_break(on); }, py::arg("on"))
      .def("stop", [](Duplex& d) { d.logic().stop(); })
      .def("save", &Duplex::save, unlocked)
      .def("restore", &Duplex::restore, py::arg("snapshot"), unlocked)
      .def(
          "set_max_new_speak_tokens", [](Duplex& d, int count) { d.logic().set_max_new_speak_tokens(count); },
          py::arg("count"))
      .def("set_options_sampling",
           [](Duplex& d, const DuplexOptions& o) { d.logic().set_sampling(o.sampling); })
      .def_property_readonly("turn_is_open", [](Duplex& d) { return d.logic().turn_is_open(); })
      .def_property_readonly("units", [](Duplex& d) { return d.logic().units(); })
      .def_property_readonly("protected_rows", [](Duplex& d) { return d.logic().protected_rows(); })
      .def_property_readonly("previous", [](Duplex& d) { return d.logic().previous(); })
      .def_property_readonly("cache_length", [](Duplex& d) { return d.session().length(); })
      .def_property_readonly("cache_capacity", [](Duplex& d) { return d.session().capacity(); })
      .def_property_readonly("_logits",
                             [](Duplex& d) {
                               const auto logits = d.logic().logits();
                               return to_array(std::vector<float>(logits.begin(), logits.end()),
                                               {static_cast<py::ssize_t>(logits.size())});
                             })
      .def_property_readonly("schema", [](Duplex& d) { return d.logic().schema(); })
      .def_property_readonly("unit_schemas", [](Duplex& d) { return d.logic().unit_schemas(); })
      .def("_keys", [](Duplex& d, int64_t layer, int64_t first, int64_t count) {
        std::vector<float> keys = d.session().cache().keys(layer, first, count);
        const auto size = static_cast<py::ssize_t>(keys.size());
        return to_array(std::move(keys),
                        {static_cast<py::ssize_t>(count), size / static_cast<py::ssize_t>(count)});
      });
}

}  // namespace omni::python
