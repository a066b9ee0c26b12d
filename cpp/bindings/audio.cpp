// bindings/audio.cpp - log-mel features.
#include "omni/audio.h"

#include "omni/error.h"

#include <algorithm>
#include <string>

#include "bindings.h"

namespace omni::python {
namespace {

std::span<const float> samples_of(const FloatArray& wav) {
  require(wav.ndim() == 1, ErrorCode::invalid_argument, "audio is a 1-d array of mono samples, got ",
          wav.ndim(), " dimensions");
  return view(wav);
}

// A chunk that outlives its stream's next call.
struct Chunk {
  MelChunk info;
  std::vector<float> data;
};

Chunk keep(const MelChunk& chunk) {
  return {chunk, {chunk.data.begin(), chunk.data.end()}};
}

MelStreamOptions stream_options(const std::string& mode) {
  if (mode == "simplex") return MelStreamOptions::simplex();
  if (mode == "duplex") return MelStreamOptions::duplex();
  fail(ErrorCode::invalid_argument, "mode is \"simplex\" or \"duplex\", not \"", mode, "\"");
}

std::vector<Chunk> push_all(MelStream& stream, const FloatArray& wav) {
  std::span<const float> rest = samples_of(wav);
  const py::gil_scoped_release release;
  require_finite(rest);
  std::vector<Chunk> chunks;
  while (!rest.empty()) {
    if (const auto chunk = stream.push(rest)) chunks.push_back(keep(*chunk));
  }
  return chunks;
}

void register_mel(py::module_& m) {
  py::class_<LogMel>(m, "LogMel")
      .def(py::init<>())
      .def(py::init([](const FloatArray& filters) { return LogMel(view(filters)); }), py::arg("filters"))
      .def_property_readonly("bins", &LogMel::bins)
      .def(
          "clip",
          [](const LogMel& self, const FloatArray& wav) {
            const auto samples = samples_of(wav);
            Mel mel;
            {
              const py::gil_scoped_release release;
              mel = self.clip(samples);
            }
            return to_array(std::move(mel.data), {mel.bins, mel.frames});
          },
          py::arg("wav"));

  py::class_<Chunk>(m, "MelChunk")
      .def_property_readonly("first_frame", [](const Chunk& c) { return c.info.first_frame; })
      .def_property_readonly("prefix", [](const Chunk& c) { return c.info.prefix; })
      .def_property_readonly("suffix", [](const Chunk& c) { return c.info.suffix; })
      .def_property_readonly("new_samples", [](const Chunk& c) { return c.info.new_samples; })
      .def_property_readonly("dynamic", [](const Chunk& c) { return c.info.dynamic; })
      .def_property_readonly("mel", [](const Chunk& c) {
        std::vector<float> data = c.data;
        const auto bins = c.info.frames > 0 ? static_cast<py::ssize_t>(data.size()) / c.info.frames : 0;
        return to_array(std::move(data), {bins, c.info.frames});
      });

  py::class_<MelStream>(m, "MelStream")
      .def(py::init([](const LogMel& mel, const std::string& mode) {
             return std::make_unique<MelStream>(mel, stream_options(mode));
           }),
           py::arg("mel"), py::arg("mode") = "simplex")
      .def("push", &push_all, py::arg("wav"))
      .def("flush",
           [](MelStream& self) -> std::optional<Chunk> {
             const py::gil_scoped_release release;
             if (const auto chunk = self.flush()) return keep(*chunk);
             return std::nullopt;
           })
      .def("reset", &MelStream::reset)
      .def("copy", [](const MelStream& self) { return std::make_unique<MelStream>(self); });
}

}  // namespace

void register_audio(py::module_& m) {
  register_mel(m);
  m.def(
      "mel_filter_bank",
      [](int bins) {
        return to_array(mel_filter_bank(bins), {bins, kSpectrumBins});
      },
      py::arg("bins") = kMelBins);
  m.def("mel_frame_count", &mel_frame_count, py::arg("samples"));
  m.def("audio_embedding_count", &audio_embedding_count, py::arg("samples"), py::arg("pool") = 5);
}

}  // namespace omni::python
