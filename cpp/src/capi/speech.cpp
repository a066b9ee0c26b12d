// capi/speech.cpp - voices, the speech model and token2wav for C.
#include "omni/speech.h"

#include "omni/error.h"
#include "omni/omni.h"
#include "omni/token2wav.h"
#include "omni/voice.h"
#include "omni/voice_encoder.h"

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "capi/guard.h"
#include "capi/handles.h"

struct omni_speech_stream {
  std::unique_ptr<omni::SpeechStream> stream;
  size_t llm_width;
  std::vector<int32_t> tokens;  // reused between calls
};
struct omni_token2wav_stream {
  std::unique_ptr<omni::Token2WavStream> stream;
  std::vector<float> wave;  // made and not read yet, from `read` on
  size_t read = 0;
};

using omni::ErrorCode;
using omni::require;
using omni::capi::guarded;
using omni::capi::require_array;
using omni::capi::require_pointer;
using omni::capi::text_or;

omni_status omni_voice_encode(const char* directory, const float* samples, size_t count, int32_t rate,
                              omni_voice** voice) {
  return guarded([&] {
    require_pointer(directory, "directory");
    require_pointer(voice, "voice");
    require_array(samples, count, "samples");
    const std::string folder = std::string(directory) + "/token2wav-gguf/";
    const auto encoder =
        omni::VoiceEncoder::open(folder + "speech_tokenizer.gguf", folder + "speaker_encoder.gguf");
    *voice = std::make_unique<omni_voice>(omni_voice{encoder->encode({samples, count}, 1, rate)}).release();
  });
}

omni_status omni_voice_load(const char* path, omni_voice** voice) {
  return guarded([&] {
    require_pointer(path, "path");
    require_pointer(voice, "voice");
    *voice = std::make_unique<omni_voice>(omni_voice{omni::Voice::load(path)}).release();
  });
}

omni_status omni_voice_save(const omni_voice* voice, const char* path) {
  return guarded([&] {
    require_pointer(voice, "voice");
    require_pointer(path, "path");
    voice->voice.save(path);
  });
}

void omni_voice_free(omni_voice* voice) {
  const std::unique_ptr<omni_voice> owned(voice);
}

omni_status omni_speech_model_open(const char* path, const char* projector, omni_speech_model** model) {
  return guarded([&] {
    require_pointer(path, "path");
    require_pointer(model, "model");
    *model = std::make_unique<omni_speech_model>(
                 omni_speech_model{omni::SpeechModel::open(path, text_or(projector, ""))})
                 .release();
  });
}

void omni_speech_model_free(omni_speech_model* model) {
  const std::unique_ptr<omni_speech_model> owned(model);
}

omni_status omni_speech_stream_new(omni_speech_model* model, const char* mode, uint64_t seed,
                                   omni_speech_stream** stream) {
  return guarded([&] {
    require_pointer(model, "model");
    require_pointer(stream, "stream");
    omni::SpeechStreamOptions options;
    options.mode = omni::parse_speech_mode(text_or(mode, "duplex"));
    options.seed = seed;
    const auto width = static_cast<size_t>(model->model->info().llm_width);
    *stream =
        std::make_unique<omni_speech_stream>(omni_speech_stream{model->model->stream(options), width, {}})
            .release();
  });
}

void omni_speech_stream_free(omni_speech_stream* stream) {
  const std::unique_ptr<omni_speech_stream> owned(stream);
}

omni_status omni_speech_push(omni_speech_stream* stream, const int32_t* ids, const float* hidden,
                             size_t count, int32_t last) {
  return guarded([&] {
    require_pointer(stream, "stream");
    require_array(ids, count, "ids");
    require_array(hidden, count, "hidden");
    stream->stream->push({ids, count}, {hidden, count * stream->llm_width}, last != 0);
  });
}

omni_status omni_speech_next(omni_speech_stream* stream, int32_t* tokens, size_t* count) {
  return guarded([&] {
    require_pointer(stream, "stream");
    require_pointer(tokens, "tokens");
    require_pointer(count, "count");
    stream->tokens.clear();
    if (!stream->stream->next(stream->tokens)) stream->tokens.clear();
    std::copy(stream->tokens.begin(), stream->tokens.end(), tokens);
    *count = stream->tokens.size();
  });
}

omni_status omni_token2wav_open(const char* directory, omni_token2wav** token2wav) {
  return guarded([&] {
    require_pointer(directory, "directory");
    require_pointer(token2wav, "token2wav");
    *token2wav = std::make_unique<omni_token2wav>(omni_token2wav{omni::Token2Wav::open(directory)}).release();
  });
}

void omni_token2wav_free(omni_token2wav* token2wav) {
  const std::unique_ptr<omni_token2wav> owned(token2wav);
}

omni_status omni_token2wav_stream_new(omni_token2wav* token2wav, const omni_voice* voice, int32_t steps,
                                      uint64_t seed, omni_token2wav_stream** stream) {
  return guarded([&] {
    require_pointer(token2wav, "token2wav");
    require_pointer(voice, "voice");
    require_pointer(stream, "stream");
    omni::Token2WavStreamOptions options;
    options.steps = steps;
    options.seed = seed;
    *stream = std::make_unique<omni_token2wav_stream>(
                  omni_token2wav_stream{token2wav->token2wav->stream(voice->voice, options), {}, 0})
                  .release();
  });
}

void omni_token2wav_stream_free(omni_token2wav_stream* stream) {
  const std::unique_ptr<omni_token2wav_stream> owned(stream);
}

omni_status omni_token2wav_push(omni_token2wav_stream* stream, const int32_t* tokens, size_t count,
                                int32_t last) {
  return guarded([&] {
    require_pointer(stream, "stream");
    require_array(tokens, count, "tokens");
    // What was read leaves; the rest keeps its memory.
    stream->wave.erase(stream->wave.begin(),
                       stream->wave.begin() + static_cast<std::ptrdiff_t>(stream->read));
    stream->read = 0;
    stream->stream->push({tokens, count}, last != 0, stream->wave);
  });
}

omni_status omni_token2wav_read(omni_token2wav_stream* stream, float* samples, size_t capacity,
                                size_t* count) {
  return guarded([&] {
    require_pointer(stream, "stream");
    require_pointer(count, "count");
    require_array(samples, capacity, "samples");
    const size_t n = std::min(capacity, stream->wave.size() - stream->read);
    std::copy_n(stream->wave.begin() + static_cast<std::ptrdiff_t>(stream->read), n, samples);
    stream->read += n;
    *count = n;
  });
}
