// bindings/voice.cpp - voices, and the encoder that makes them of recordings.
#include "omni/voice.h"

#include "omni/error.h"
#include "omni/voice_encoder.h"

#include <filesystem>
#include <string>

#include <pybind11/stl/filesystem.h>

#include "bindings.h"

namespace omni::python {
namespace {

Voice make_voice(const IntArray& tokens, const FloatArray& embedding, const FloatArray& mel) {
  require(mel.ndim() == 2 && mel.shape(1) == Voice::kMelBins, ErrorCode::invalid_argument,
          "the mel of a voice is an array [frames, ", Voice::kMelBins, "]");
  Voice voice;
  const auto copy = [](auto values) { return std::vector(values.begin(), values.end()); };
  voice.tokens = copy(view(tokens));
  voice.embedding = copy(view(embedding));
  voice.mel = copy(view(mel));
  voice.check();
  return voice;
}

py::array_t<float> rows(std::vector<float> values, py::ssize_t width) {
  const auto n = static_cast<py::ssize_t>(values.size()) / width;
  return to_array(std::move(values), {n, width});
}

struct Encoded {
  Voice voice;
  VoiceStages stages;
};

// `wav` is [n] or [n, channels].
Encoded encode(VoiceEncoder& encoder, const FloatArray& wav, int rate) {
  require(wav.ndim() == 1 || wav.ndim() == 2, ErrorCode::invalid_argument,
          "a recording is an array [n] or [n, channels], got ", wav.ndim(), " dimensions");
  const auto channels = wav.ndim() == 1 ? py::ssize_t{1} : wav.shape(1);
  require(channels <= 64, ErrorCode::invalid_argument, "a recording with ", channels,
          " channels: the order is [n, channels], so transpose it");
  const auto samples = view(wav);
  const py::gil_scoped_release release;
  Encoded out;
  out.voice = encoder.encode(samples, static_cast<int>(channels), rate, &out.stages);
  return out;
}

VoiceEncoderOptions options_of(const std::string& weight_format, bool repack, bool whole_tail_block,
                               const std::string& device, int n_threads, int poll) {
  return {weight_format, repack, whole_tail_block, {device, n_threads, poll}};
}

}  // namespace

void register_voice(py::module_& m) {
  m.attr("MIN_VOICE_SECONDS") = kMinVoiceSeconds;
  m.attr("MAX_VOICE_SECONDS") = kMaxVoiceSeconds;

  py::class_<Voice>(m, "Voice", R"(What speech synthesis needs to know of a speaker, computed once.

Attributes:
    tokens: int32 [n], S3 speech tokens of the recording, 25 a second. Empty for a prompt cache.
    embedding: float32 [192], CAM++ speaker vector, not normalised.
    mel: float32 [2n, 80], natural log, 50 frames a second. Empty for a prompt cache.
    cache_steps: flow steps that a prompt cache was made for; 0 for a voice from a recording.)")
      .def(py::init(&make_voice), py::arg("tokens"), py::arg("embedding"), py::arg("mel"))
      .def_property_readonly("tokens",
                             [](const Voice& v) {
                               const auto n = static_cast<py::ssize_t>(v.tokens.size());
                               return to_array(std::vector<int32_t>(v.tokens), {n});
                             })
      .def_property_readonly("embedding",
                             [](const Voice& v) {
                               const auto n = static_cast<py::ssize_t>(v.embedding.size());
                               return to_array(std::vector<float>(v.embedding), {n});
                             })
      .def_property_readonly("mel", [](const Voice& v) { return rows(v.mel, Voice::kMelBins); })
      .def_readonly("cache_steps", &Voice::cache_steps)
      .def(
          "save", [](const Voice& v, const std::filesystem::path& path) { v.save(path.string()); },
          py::arg("path"), "Writes a small GGUF file.")
      .def_static(
          "load", [](const std::filesystem::path& path) { return Voice::load(path.string()); },
          py::arg("path"), "Reads what save() wrote, or an official prompt_cache.gguf.")
      .def("__repr__", [](const Voice& v) {
        return str("Voice(", static_cast<double>(v.frames()) / 50.0, " s of reference",
                   v.cache != nullptr ? str(", a prompt cache for ", v.cache_steps, " flow steps)") : ")");
      });

  py::class_<VoiceEncoder, std::shared_ptr<VoiceEncoder>>(m, "VoiceEncoder")
      .def_static(
          "open",
          [](const std::string& tokenizer, const std::string& speaker, const std::string& weight_format,
             bool repack, bool whole_tail_block, const std::string& device, int n_threads, int poll) {
            const py::gil_scoped_release release;
            return VoiceEncoder::open(
                tokenizer, speaker,
                options_of(weight_format, repack, whole_tail_block, device, n_threads, poll));
          },
          py::arg("tokenizer"), py::arg("speaker"), py::kw_only(), py::arg("weight_format"),
          py::arg("repack"), py::arg("whole_tail_block"), py::arg("device"), py::arg("n_threads"),
          py::arg("poll"))
      .def_static(
          "synthetic",
          [](const std::string& weight_format, bool repack, bool whole_tail_block, const std::string& device,
             int n_threads, int poll) {
            const py::gil_scoped_release release;
            return VoiceEncoder::synthetic(
                options_of(weight_format, repack, whole_tail_block, device, n_threads, poll));
          },
          py::kw_only(), py::arg("weight_format"), py::arg("repack"), py::arg("whole_tail_block"),
          py::arg("device"), py::arg("n_threads"), py::arg("poll"))
      .def(
          "encode",
          [](VoiceEncoder& self, const FloatArray& wav, int rate) { return encode(self, wav, rate).voice; },
          py::arg("wav"), py::arg("rate"))
      .def(
          "_stages",
          [](VoiceEncoder& self, const FloatArray& wav, int rate) {
            Encoded result = encode(self, wav, rate);
            VoiceStages& s = result.stages;
            py::dict out;
            out["token_mel"] = rows(std::move(s.token_mel), 128);
            out["codes"] = rows(std::move(s.codes), 8);
            out["features"] = rows(std::move(s.features), 80);
            const auto n = static_cast<py::ssize_t>(s.wave24k.size());
            out["wave24k"] = to_array(std::move(s.wave24k), {n});
            return out;
          },
          py::arg("wav"), py::arg("rate"));
}

}  // namespace omni::python
