// bindings/audio.cpp - log-mel features, the audio encoder and its streams.
#include "omni/audio.h"

#include "omni/audio_encoder.h"
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
             return std::make_unique<MelStream>(mel, MelStreamOptions::named(mode));
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

py::array_t<float> to_embeddings(const AudioEncoderInfo& info, std::vector<float>&& values) {
  const auto width = static_cast<py::ssize_t>(info.embed_width);
  const auto rows = static_cast<py::ssize_t>(values.size()) / width;
  return to_array(std::move(values), {rows, width});
}

py::array_t<float> encode(const AudioEncoder& encoder, const std::vector<FloatArray>& wavs,
                          std::optional<double> chunk_seconds) {
  std::vector<std::span<const float>> clips;
  for (const FloatArray& wav : wavs) clips.push_back(samples_of(wav));
  std::vector<float> embeds;
  {
    const py::gil_scoped_release release;
    embeds = encoder.encode_batch(clips, chunk_seconds);
  }
  return to_embeddings(encoder.info(), std::move(embeds));
}

py::dict inspect(const AudioEncoder& encoder, const FloatArray& wav, std::optional<double> chunk_seconds) {
  const auto samples = samples_of(wav);
  AudioStages stages;
  {
    const py::gil_scoped_release release;
    stages = encoder.inspect(samples, chunk_seconds);
  }
  py::dict out;
  const auto add = [&](const char* name, std::vector<float>& values, int64_t width) {
    const auto rows = static_cast<py::ssize_t>(values.size()) / static_cast<py::ssize_t>(width);
    out[name] = to_array(std::move(values), {rows, static_cast<py::ssize_t>(width)});
  };
  add("conv1", stages.conv1, encoder.info().width);
  add("conv2", stages.conv2, encoder.info().width);
  add("layer0", stages.layer0, encoder.info().width);
  add("encoded", stages.encoded, encoder.info().width);
  add("projected", stages.projected, encoder.info().embed_width);
  add("embeds", stages.embeds, encoder.info().embed_width);
  return out;
}

// A stream with the sizes that its arrays need.
struct Stream {
  std::shared_ptr<AudioEncoder> encoder;
  std::unique_ptr<AudioStream> stream;
};

void register_encoder(py::module_& m) {
  py::class_<AudioEncoderInfo>(m, "AudioEncoderInfo")
      .def_readonly("n_layers", &AudioEncoderInfo::n_layers)
      .def_readonly("width", &AudioEncoderInfo::width)
      .def_readonly("n_heads", &AudioEncoderInfo::n_heads)
      .def_readonly("ffn_width", &AudioEncoderInfo::ffn_width)
      .def_readonly("n_positions", &AudioEncoderInfo::n_positions)
      .def_readonly("bins", &AudioEncoderInfo::bins)
      .def_readonly("pool", &AudioEncoderInfo::pool)
      .def_readonly("embed_width", &AudioEncoderInfo::embed_width)
      .def_readonly("parameters", &AudioEncoderInfo::parameters)
      .def_readonly("file_bytes", &AudioEncoderInfo::file_bytes)
      .def_readonly("copied_bytes", &AudioEncoderInfo::copied_bytes)
      .def_readonly("matrix_bytes", &AudioEncoderInfo::matrix_bytes)
      .def_readonly("matrix_type", &AudioEncoderInfo::matrix_type);

  py::class_<Stream>(m, "AudioStream")
      .def(
          "push",
          [](Stream& self, const FloatArray& wav) {
            const auto samples = samples_of(wav);
            std::vector<float> embeds;
            {
              const py::gil_scoped_release release;
              self.stream->push(samples, embeds);
            }
            return to_embeddings(self.encoder->info(), std::move(embeds));
          },
          py::arg("wav"))
      .def("flush",
           [](Stream& self) {
             std::vector<float> embeds;
             {
               const py::gil_scoped_release release;
               self.stream->flush(embeds);
             }
             return to_embeddings(self.encoder->info(), std::move(embeds));
           })
      .def("reset", [](Stream& self) { self.stream->reset(); })
      .def("clone",
           [](const Stream& self) {
             const py::gil_scoped_release release;
             return std::make_unique<Stream>(Stream{self.encoder, self.stream->clone()});
           })
      .def_property_readonly("length", [](const Stream& self) { return self.stream->length(); })
      .def("_encoded", [](const Stream& self) {
        const auto rows = self.stream->encoded();
        const auto width = static_cast<py::ssize_t>(self.encoder->info().width);
        return to_array(std::vector<float>(rows.begin(), rows.end()),
                        {static_cast<py::ssize_t>(rows.size()) / width, width});
      });

  py::class_<AudioEncoder, std::shared_ptr<AudioEncoder>>(m, "AudioEncoder")
      .def_static(
          "open",
          [](const std::string& path, int n_threads, const std::string& device, int poll,
             const std::string& weight_format, bool repack, const std::string& kv_type) {
            const py::gil_scoped_release release;
            return AudioEncoder::open(path, {weight_format, repack, kv_type, {device, n_threads, poll}});
          },
          py::arg("path"), py::kw_only(), py::arg("n_threads"), py::arg("device"), py::arg("poll"),
          py::arg("weight_format"), py::arg("repack"), py::arg("kv_type"))
      .def_static(
          "synthetic",
          [](const std::string& type, int64_t n_layers, int n_threads, const std::string& device, int poll,
             const std::string& weight_format, bool repack, const std::string& kv_type) {
            const py::gil_scoped_release release;
            SyntheticAudioEncoder sizes;
            sizes.type = type;
            sizes.n_layers = n_layers;
            return AudioEncoder::synthetic(sizes,
                                           {weight_format, repack, kv_type, {device, n_threads, poll}});
          },
          py::arg("type"), py::arg("n_layers"), py::kw_only(), py::arg("n_threads"), py::arg("device"),
          py::arg("poll"), py::arg("weight_format"), py::arg("repack"), py::arg("kv_type"))
      .def_property_readonly("info", &AudioEncoder::info)
      .def_property_readonly("device_name", &AudioEncoder::device_name)
      .def_property_readonly("mel", [](const AudioEncoder& self) { return self.mel(); })
      .def("embedding_count", &AudioEncoder::embedding_count, py::arg("samples"))
      .def("encode", &encode, py::arg("wavs"), py::arg("chunk_seconds"))
      .def(
          "stream",
          [](const std::shared_ptr<AudioEncoder>& self, const std::string& mode, bool lead_in) {
            MelStreamOptions options = MelStreamOptions::named(mode);
            if (!lead_in) options.lead_in_samples = 0;
            const py::gil_scoped_release release;
            return std::make_unique<Stream>(Stream{self, self->stream(options)});
          },
          py::arg("mode"), py::arg("lead_in") = true)
      .def("_inspect", &inspect, py::arg("wav"), py::arg("chunk_seconds"));
}

}  // namespace

void register_audio(py::module_& m) {
  register_mel(m);
  register_encoder(m);
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
