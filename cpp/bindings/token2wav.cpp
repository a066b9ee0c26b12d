// bindings/token2wav.cpp - Token2Wav and its streams for Python.
#include "omni/token2wav.h"

#include "bindings.h"

namespace omni::python {
namespace {

py::ssize_t rows_of(size_t values) {
  return static_cast<py::ssize_t>(values) / Voice::kMelBins;
}

py::array_t<float> frames(std::vector<float> values) {
  const py::ssize_t n = rows_of(values.size());
  return to_array(std::move(values), {n, static_cast<py::ssize_t>(Voice::kMelBins)});
}

py::array_t<float> sound(std::vector<float> wave) {
  const auto n = static_cast<py::ssize_t>(wave.size());
  return to_array(std::move(wave), {n});
}

std::vector<float> copy(const FloatArray& values) {
  return {values.data(), values.data() + values.size()};
}

// Runs work(wave) without the GIL and returns what it wrote.
template <typename Work>
py::array_t<float> hear(Work&& work) {
  std::vector<float> wave;
  {
    const py::gil_scoped_release release;
    work(wave);
  }
  return sound(std::move(wave));
}

}  // namespace

void register_token2wav(py::module_& m) {
  py::class_<Token2WavInfo>(m, "Token2WavInfo")
      .def_readonly("sample_rate", &Token2WavInfo::sample_rate)
      .def_readonly("token_rate", &Token2WavInfo::token_rate)
      .def_readonly("n_tokens", &Token2WavInfo::n_tokens)
      .def_readonly("look_ahead", &Token2WavInfo::look_ahead)
      .def_readonly("has_causal", &Token2WavInfo::has_causal)
      .def_readonly("has_original", &Token2WavInfo::has_original)
      .def_readonly("parameters", &Token2WavInfo::parameters)
      .def_readonly("copied_bytes", &Token2WavInfo::copied_bytes)
      .def_readonly("matrix_type", &Token2WavInfo::matrix_type);

  py::class_<Token2WavCost>(m, "Token2WavCost")
      .def_readonly("operations", &Token2WavCost::operations)
      .def_readonly("bytes", &Token2WavCost::bytes);

  py::class_<Token2WavStream>(m, "Token2WavStream")
      .def(
          "push",
          [](Token2WavStream& s, const IntArray& tokens, bool last) {
            return hear([&, ids = view(tokens)](std::vector<float>& wave) { s.push(ids, last, wave); });
          },
          py::arg("tokens"), py::arg("last"))
      .def("flush", [](Token2WavStream& s) { return hear([&](std::vector<float>& wave) { s.flush(wave); }); })
      .def(
          "window",
          [](Token2WavStream& s, const IntArray& tokens, bool last) {
            return hear([&, ids = view(tokens)](std::vector<float>& wave) { s.window(ids, last, wave); });
          },
          py::arg("tokens"), py::arg("last"))
      .def("reset", &Token2WavStream::reset, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("buffered", &Token2WavStream::buffered)
      .def_property_readonly("_mu", [](const Token2WavStream& s) { return frames(s.last_mu()); })
      .def_property_readonly("_mel", [](const Token2WavStream& s) { return frames(s.last_mel()); })
      .def_property_readonly("_cache_frames", &Token2WavStream::cache_frames);

  py::class_<Token2Wav, std::shared_ptr<Token2Wav>>(m, "Token2Wav")
      .def_static(
          "open",
          [](const std::string& directory, const std::string& weight_format, const std::string& vocoder,
             int n_threads, const std::string& device, int poll) {
            const py::gil_scoped_release release;
            return Token2Wav::open(directory, {weight_format, vocoder, {device, n_threads, poll}});
          },
          py::arg("directory"), py::kw_only(), py::arg("weight_format"), py::arg("vocoder"),
          py::arg("n_threads"), py::arg("device"), py::arg("poll"))
      .def_static(
          "synthetic",
          [](const std::string& weight_format, const std::string& vocoder, int n_threads,
             const std::string& device, int poll) {
            const py::gil_scoped_release release;
            return Token2Wav::synthetic({}, {weight_format, vocoder, {device, n_threads, poll}});
          },
          py::kw_only(), py::arg("weight_format"), py::arg("vocoder"), py::arg("n_threads"),
          py::arg("device"), py::arg("poll"))
      .def_property_readonly("info", &Token2Wav::info)
      .def(
          "stream",
          [](Token2Wav& self, const Voice& voice, int steps, uint64_t seed, bool silence,
             const FloatArray& noise, bool excitation) {
            const Token2WavStreamOptions options{steps, seed, silence, copy(noise), excitation};
            const py::gil_scoped_release release;
            return self.stream(voice, options);
          },
          py::arg("voice"), py::kw_only(), py::arg("steps"), py::arg("seed"), py::arg("silence"),
          py::arg("noise"), py::arg("excitation"))
      .def(
          "synthesize",
          [](Token2Wav& self, const IntArray& tokens, const Voice& voice, int steps, uint64_t seed,
             const FloatArray& noise, bool excitation) {
            const Token2WavStreamOptions options{steps, seed, false, copy(noise), excitation};
            return hear([&, ids = view(tokens)](std::vector<float>& wave) {
              wave = self.synthesize(ids, voice, options);
            });
          },
          py::arg("tokens"), py::arg("voice"), py::kw_only(), py::arg("steps"), py::arg("seed"),
          py::arg("noise"), py::arg("excitation"))
      .def("_flow_cost", &Token2Wav::flow_cost, py::arg("steps"), py::arg("past"))
      .def("_vocoder_cost", &Token2Wav::vocoder_cost, py::arg("frames"))
      .def(
          "_stages",
          [](Token2Wav& self, const IntArray& tokens, const Voice& voice, int steps,
             const FloatArray& noise) {
            const Token2WavStreamOptions options{steps, 0, false, copy(noise), false};
            std::map<std::string, std::vector<float>> stages;
            stages["hift_wave"] = self.synthesize(view(tokens), voice, options, stages);
            py::dict out;
            for (auto& [name, values] : stages) out[py::str(name)] = sound(std::move(values));
            return out;
          },
          py::arg("tokens"), py::arg("voice"), py::kw_only(), py::arg("steps"), py::arg("noise"))
      .def(
          "_vocode",
          [](Token2Wav& self, const FloatArray& mel, bool for_streams, bool excitation, uint64_t seed) {
            return hear([&, values = view(mel)](std::vector<float>& wave) {
              wave = self.vocode(values, for_streams, excitation, seed);
            });
          },
          py::arg("mel"), py::kw_only(), py::arg("for_streams"), py::arg("excitation"), py::arg("seed") = 0);
}

}  // namespace omni::python
