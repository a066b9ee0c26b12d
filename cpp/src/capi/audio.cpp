// capi/audio.cpp - the C interface: audio encoder and its streams.
#include "omni/audio_encoder.h"
#include "omni/omni.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "capi/guard.h"
#include "capi/handles.h"

using namespace omni::capi;
using omni::ErrorCode;
using omni::require;

struct omni_audio_stream {
  std::unique_ptr<omni::AudioStream> stream;
  size_t width;              // D
  std::vector<float> ready;  // [rows, D] that the caller has not taken yet
};

namespace {

// Writes rows that are ready, at most `capacity`, and keeps the others.
void give(omni_audio_stream& s, float* embeds, size_t capacity, size_t* count) {
  const size_t rows = s.ready.size() / s.width;
  const auto taken = static_cast<std::ptrdiff_t>(std::min(capacity, rows) * s.width);
  std::copy(s.ready.begin(), s.ready.begin() + taken, embeds);
  s.ready.erase(s.ready.begin(), s.ready.begin() + taken);
  *count = rows;
}

}  // namespace

omni_audio_params omni_audio_default_params(void) {
  const omni::AudioEncoderOptions d;
  return {d.device.n_threads, d.device.poll, nullptr, "auto", d.repack ? 1 : 0, "f16"};
}

omni_status omni_audio_open(const char* path, const omni_audio_params* params, omni_audio** audio) {
  return guarded([&] {
    require_pointer(path, "path");
    require_pointer(audio, "audio");
    const omni_audio_params p = params != nullptr ? *params : omni_audio_default_params();
    omni::AudioEncoderOptions options;
    options.device = {text_or(p.device, ""), p.n_threads, p.poll};
    options.weight_format = text_or(p.weight_format, "auto");
    options.repack = p.repack != 0;
    options.kv_type = text_or(p.kv_type, "f16");
    *audio = std::make_unique<omni_audio>(omni_audio{omni::AudioEncoder::open(path, options)}).release();
  });
}

void omni_audio_free(omni_audio* audio) {
  const std::unique_ptr<omni_audio> owned(audio);
}

int64_t omni_audio_width(const omni_audio* audio) {
  return audio == nullptr ? 0 : audio->encoder->info().embed_width;
}

omni_status omni_audio_encode(const omni_audio* audio, const float* samples, size_t n_samples,
                              double chunk_seconds, float* embeds, size_t capacity, size_t* count) {
  return guarded([&] {
    require_pointer(audio, "audio");
    require_pointer(count, "count");
    require_array(samples, n_samples, "samples");
    require_array(embeds, capacity, "embeds");
    const omni::AudioEncoder& encoder = *audio->encoder;
    auto rows = static_cast<size_t>(encoder.embedding_count(static_cast<int64_t>(n_samples)));
    if (capacity > 0) {
      const auto chunk = chunk_seconds == 0 ? std::nullopt : std::optional(chunk_seconds);
      const std::vector<float> values = encoder.encode({samples, n_samples}, chunk);
      const auto width = static_cast<size_t>(encoder.info().embed_width);
      rows = values.size() / width;
      std::copy_n(values.begin(), std::min(capacity, rows) * width, embeds);
    }
    *count = rows;
  });
}

omni_status omni_audio_stream_new(omni_audio* audio, const char* mode, omni_audio_stream** stream) {
  return guarded([&] {
    require_pointer(audio, "audio");
    require_pointer(stream, "stream");
    const auto options = omni::MelStreamOptions::named(text_or(mode, "simplex"));
    *stream =
        std::make_unique<omni_audio_stream>(
            omni_audio_stream{
                audio->encoder->stream(options), static_cast<size_t>(audio->encoder->info().embed_width), {}})
            .release();
  });
}

void omni_audio_stream_free(omni_audio_stream* stream) {
  const std::unique_ptr<omni_audio_stream> owned(stream);
}

omni_status omni_audio_stream_push(omni_audio_stream* stream, const float* samples, size_t n_samples,
                                   float* embeds, size_t capacity, size_t* count) {
  return guarded([&] {
    require_pointer(stream, "stream");
    require_pointer(count, "count");
    require_array(samples, n_samples, "samples");
    require_array(embeds, capacity, "embeds");
    if (n_samples > 0) stream->stream->push({samples, n_samples}, stream->ready);
    give(*stream, embeds, capacity, count);
  });
}

omni_status omni_audio_stream_flush(omni_audio_stream* stream, float* embeds, size_t capacity,
                                    size_t* count) {
  return guarded([&] {
    require_pointer(stream, "stream");
    require_pointer(count, "count");
    require_array(embeds, capacity, "embeds");
    stream->stream->flush(stream->ready);
    give(*stream, embeds, capacity, count);
  });
}

omni_status omni_audio_stream_reset(omni_audio_stream* stream) {
  return guarded([&] {
    require_pointer(stream, "stream");
    stream->stream->reset();
    stream->ready.clear();
  });
}
