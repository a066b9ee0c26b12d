// bindings/duplex_session.cpp - the full-duplex session that runs by itself.
#include "omni/duplex_session.h"

#include "omni/duplex_networks.h"
#include "omni/error.h"

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "runtime/scripted_stages.h"

namespace omni::python {
namespace {

// Ends its threads without the GIL, which is held where Python drops the last reference.
class Session {
 public:
  Session(DuplexStages& stages, const DuplexPrompt& prompt, const DuplexSessionOptions& options)
      : session_(std::make_unique<DuplexSession>(std::move(stages), prompt, options)) {}
  ~Session() {
    const py::gil_scoped_release release;
    session_.reset();
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  DuplexSession* operator->() { return session_.get(); }

 private:
  std::unique_ptr<DuplexSession> session_;
};

// The event's name and its fields behind unit, epoch and time, in the order of the Python class.
std::pair<const char*, py::tuple> content(DuplexEvent& event) {
  if (const auto* state = std::get_if<DuplexStateEvent>(&event.what)) {
    return {"state", py::make_tuple(state->speaking ? "speaking" : "listening")};
  }
  if (const auto* text = std::get_if<DuplexTextEvent>(&event.what)) {
    return {"text", py::make_tuple(text->text, text->end_of_turn)};
  }
  if (auto* audio = std::get_if<DuplexAudioEvent>(&event.what)) {
    const auto size = static_cast<py::ssize_t>(audio->samples.size());
    return {"audio",
            py::make_tuple(to_array(std::move(audio->samples), {size}), 24000, audio->first, audio->last)};
  }
  if (const auto* end = std::get_if<DuplexTurnEndEvent>(&event.what)) {
    return {"turn_end", py::make_tuple(end->interrupted)};
  }
  if (const auto* unit = std::get_if<DuplexUnitEvent>(&event.what)) {
    return {"unit",
            py::make_tuple(unit->encode_ms, unit->decide_ms, unit->speak_ms, unit->render_ms,
                           unit->latency_ms, unit->queued_units, unit->cache_length, unit->cache_capacity,
                           unit->is_listen, unit->dropped_frames, unit->text_tokens, unit->speech_tokens)};
  }
  if (const auto* degraded = std::get_if<DuplexDegradedEvent>(&event.what)) {
    return {"degraded",
            py::make_tuple(static_cast<int>(degraded->level), name_of(degraded->level), degraded->reason)};
  }
  return {"input_dropped", py::make_tuple(std::get<DuplexInputDroppedEvent>(event.what).seconds)};
}

// Name, unit, epoch, time, and the event's own fields; None if there was no event in time; False at the end.
py::object poll(Session& session, double timeout) {
  DuplexEvent event;
  DuplexSession::Poll found{};
  {
    const py::gil_scoped_release release;
    found = session->poll(event, std::chrono::duration<double>(timeout));
  }
  if (found == DuplexSession::Poll::nothing) return py::none();
  if (found == DuplexSession::Poll::end) return py::bool_(false);
  auto [name, fields] = content(event);
  return py::make_tuple(name, py::make_tuple(event.unit, event.epoch, event.time) + fields);
}

void push_audio(Session& session, const FloatArray& samples) {
  require(samples.ndim() == 1, ErrorCode::invalid_argument, "sound is an array [n]");
  const std::span<const float> sound = view(samples);
  const py::gil_scoped_release release;
  session->push_audio(sound, [] {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  });
}

void push_frame(Session& session, const py::array_t<uint8_t, py::array::c_style>& pixels) {
  require(pixels.ndim() == 3 && pixels.shape(2) == 3 && pixels.shape(0) <= kMaxImageSide &&
              pixels.shape(1) <= kMaxImageSide,
          ErrorCode::invalid_argument, "a frame is an array uint8 [height, width, 3]");
  Image image;
  image.height = static_cast<int>(pixels.shape(0));
  image.width = static_cast<int>(pixels.shape(1));
  const py::gil_scoped_release release;
  image.rgb.assign(pixels.data(), pixels.data() + pixels.size());
  session->push_frame(std::move(image));
}

DuplexStages make_stages(std::shared_ptr<LanguageModel> language_model, const Tokenizer& tokenizer,
                         std::shared_ptr<AudioEncoder> audio, std::shared_ptr<VisionEncoder> vision,
                         std::shared_ptr<SpeechModel> speech, std::shared_ptr<Token2Wav> token2wav,
                         const std::optional<Voice>& voice, const DuplexOptions& logic, int64_t n_ctx,
                         bool greedy_speech, float speech_temperature, float speech_penalty, uint64_t seed,
                         int steps, std::vector<int> other_steps, uint64_t sound_seed,
                         const std::optional<FloatArray>& noise, bool excitation, bool flush_every_unit) {
  DuplexNetworks networks;
  networks.language_model = std::move(language_model);
  networks.tokenizer = std::make_shared<const Tokenizer>(tokenizer);
  networks.audio = std::move(audio);
  networks.vision = std::move(vision);
  networks.speech = std::move(speech);
  networks.token2wav = std::move(token2wav);
  if (voice) networks.voice = std::make_shared<const Voice>(*voice);
  DuplexStageOptions options;
  options.logic = logic;
  options.n_ctx = n_ctx;
  options.speech.greedy = greedy_speech;
  options.speech.temperature = speech_temperature;
  options.speech.repetition_penalty = speech_penalty;
  options.speech.seed = seed;
  options.sound.stream.steps = steps;
  options.sound.stream.seed = sound_seed;
  if (noise) options.sound.stream.noise.assign(noise->data(), noise->data() + noise->size());
  options.sound.stream.excitation = excitation;
  options.sound.flush_every_unit = flush_every_unit;
  options.sound.other_steps = std::move(other_steps);
  const py::gil_scoped_release release;
  return make_duplex_stages(networks, options);
}

DuplexStages make_scripted(const std::vector<std::tuple<bool, std::string, bool>>& units, bool repeat,
                           size_t samples_per_unit, const std::array<double, 4>& seconds, int fails_stage,
                           int64_t fails_call, bool has_speech) {
  DuplexScript script;
  for (const auto& [speaks, text, ends_turn] : units) script.units.push_back({speaks, text, ends_turn});
  script.repeat = repeat;
  script.samples_per_unit = samples_per_unit;
  script.has_speech = has_speech;
  script.before = [=](ScriptedStage stage, int64_t call) {
    const auto index = static_cast<size_t>(stage);
    if (seconds[index] > 0) std::this_thread::sleep_for(std::chrono::duration<double>(seconds[index]));
    if (static_cast<int>(index) == fails_stage && call == fails_call) {
      fail(ErrorCode::device, "the script lets a stage fail");
    }
  };
  return scripted_stages(script);
}

}  // namespace

void register_duplex_session(py::module_& m) {
  py::class_<DuplexStages>(m, "DuplexStages");
  m.def("duplex_stages", &make_stages, py::kw_only(), py::arg("language_model"), py::arg("tokenizer"),
        py::arg("audio"), py::arg("vision"), py::arg("speech"), py::arg("token2wav"), py::arg("voice"),
        py::arg("logic"), py::arg("n_ctx"), py::arg("greedy_speech"), py::arg("speech_temperature"),
        py::arg("speech_penalty"), py::arg("seed"), py::arg("steps"), py::arg("other_steps"),
        py::arg("sound_seed"), py::arg("noise"), py::arg("excitation"), py::arg("flush_every_unit"));
  m.def("scripted_duplex_stages", &make_scripted, py::arg("units"), py::kw_only(), py::arg("repeat") = false,
        py::arg("samples_per_unit") = 24000, py::arg("seconds") = std::array<double, 4>{},
        py::arg("fails_stage") = -1, py::arg("fails_call") = 0, py::arg("has_speech") = true);

  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<Session>(m, "DuplexSession")
      .def(py::init([](DuplexStages& stages, std::string prefix, std::string suffix,
                       const std::optional<FloatArray>& reference, bool real_time, int max_queued_units,
                       int max_frames_per_unit, int max_slice_nums) {
             DuplexPrompt prompt;
             prompt.prefix = std::move(prefix);
             prompt.suffix = std::move(suffix);
             if (reference) {
               const auto samples = view(*reference);
               prompt.reference.assign(samples.begin(), samples.end());
             }
             DuplexSessionOptions options;
             options.real_time = real_time;
             options.max_queued_units = max_queued_units;
             options.max_frames_per_unit = max_frames_per_unit;
             options.max_slice_nums = max_slice_nums;
             const py::gil_scoped_release release;
             return std::make_unique<Session>(stages, prompt, options);
           }),
           py::arg("stages"), py::kw_only(), py::arg("prefix"), py::arg("suffix"), py::arg("reference"),
           py::arg("real_time"), py::arg("max_queued_units"), py::arg("max_frames_per_unit"),
           py::arg("max_slice_nums"))
      .def("push_audio", &push_audio, py::arg("samples"))
      .def("push_frame", &push_frame, py::arg("pixels"))
      .def(
          "end_input", [](Session& s) { s->end_input(); }, unlocked)
      .def(
          "interrupt", [](Session& s) { s->interrupt(); }, unlocked)
      .def(
          "close", [](Session& s) { s->close(); }, unlocked)
      .def("poll", &poll, py::arg("timeout"))
      .def_property_readonly("epoch", [](Session& s) { return s->epoch(); })
      .def_property_readonly("is_speaking", [](Session& s) { return s->is_speaking(); })
      .def_property_readonly("units", [](Session& s) { return s->units(); })
      .def_property_readonly("level", [](Session& s) { return static_cast<int>(s->level()); });
}

}  // namespace omni::python
