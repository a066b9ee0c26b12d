// capi/duplex.cpp - full-duplex sessions for C.
#include "omni/chat_template.h"
#include "omni/duplex_networks.h"
#include "omni/duplex_session.h"
#include "omni/error.h"
#include "omni/omni.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <variant>

#include "capi/guard.h"
#include "capi/handles.h"

using namespace omni::capi;
using omni::ErrorCode;
using omni::require;

struct omni_duplex {
  omni::DuplexSession session;
  omni::DuplexEvent current;  // what the caller's pointers point into
  bool sees;
};

namespace {

constexpr size_t kRate = 16000;

// How much of a struct both know: that of a program which was built with an older header is shorter.
template <typename Struct>
size_t known_size(const Struct& given, const char* name) {
  require(given.size >= sizeof(size_t) && given.size <= 4096, ErrorCode::invalid_argument, name, "->size is ",
          given.size, ", which is not the size of the struct");
  return std::min(given.size, sizeof(Struct));
}

// The rest is as in `result`.
template <typename Struct>
Struct known(const Struct* given, Struct result, const char* name) {
  if (given != nullptr) std::memcpy(&result, given, known_size(*given, name));
  return result;
}

omni::WindowMode window_mode(const std::string& name) {
  if (name == "basic") return omni::WindowMode::basic;
  if (name == "context") return omni::WindowMode::context;
  require(name == "off", ErrorCode::invalid_argument, "window '", name, "' is none of basic, context, off");
  return omni::WindowMode::off;
}

omni::DuplexNetworks networks_of(const omni_duplex_parts& parts) {
  require_pointer(parts.tokenizer, "parts->tokenizer");
  require_pointer(parts.model, "parts->model");
  require_pointer(parts.audio, "parts->audio");
  omni::DuplexNetworks networks;
  networks.language_model = parts.model->model;
  networks.tokenizer = std::make_shared<const omni::Tokenizer>(parts.tokenizer->tokenizer);
  networks.audio = parts.audio->encoder;
  if (parts.vision != nullptr) networks.vision = parts.vision->encoder;
  if (parts.speech != nullptr) networks.speech = parts.speech->model;
  if (parts.token2wav != nullptr) networks.token2wav = parts.token2wav->token2wav;
  if (parts.voice != nullptr) networks.voice = std::make_shared<const omni::Voice>(parts.voice->voice);
  return networks;
}

omni::DuplexStageOptions stage_options(const omni_duplex_params& p, const omni::LanguageModel& model) {
  omni::DuplexStageOptions options;
  options.n_ctx = p.n_ctx;
  options.logic.max_new_speak_tokens_per_chunk = p.max_speak;
  options.logic.force_listen_count = p.force_listen;
  options.logic.sliding_window_mode = window_mode(text_or(p.window, "basic"));
  const int64_t rows =
      p.n_ctx > 0 ? p.n_ctx : model.options().n_ctx;  // a smaller context slides by as much of it
  options.logic.basic_window_high_tokens = std::min(options.logic.basic_window_high_tokens, rows);
  options.logic.basic_window_low_tokens = std::min(options.logic.basic_window_low_tokens, rows * 3 / 4);
  omni::DuplexSamplerOptions& sampling = options.logic.sampling;
  sampling.greedy = p.greedy != 0;
  sampling.temperature = p.temperature;
  sampling.top_k = p.top_k;
  sampling.top_p = p.top_p;
  sampling.seed = options.speech.seed = p.seed;
  options.speech.greedy = p.greedy != 0;
  options.sound.stream.steps = p.steps;
  if (p.real_time != 0 && p.steps > 1) options.sound.other_steps = {(p.steps + 1) / 2};
  return options;
}

omni::DuplexPrompt prompt_of(const omni_duplex_params& p) {
  omni::DuplexPrompt prompt;
  prompt.prefix =
      "<|im_start|>system\n" + text_or(p.prompt, std::string(omni::default_duplex_prompt()).c_str());
  prompt.suffix = "<|im_end|>";
  if (p.n_reference == 0) return prompt;
  prompt.prefix += "\n<|audio_start|>";
  prompt.suffix = "<|audio_end|>" + prompt.suffix;
  prompt.reference.assign(p.reference, p.reference + p.n_reference);
  return prompt;
}

// ---- events ----

void fill(omni_duplex_event& out, const omni::DuplexStateEvent& event) {
  out.type = OMNI_DUPLEX_STATE;
  out.speaking = event.speaking ? 1 : 0;
}
void fill(omni_duplex_event& out, const omni::DuplexTextEvent& event) {
  out.type = OMNI_DUPLEX_TEXT;
  out.text = event.text.c_str();
  out.end_of_turn = event.end_of_turn ? 1 : 0;
}
void fill(omni_duplex_event& out, const omni::DuplexAudioEvent& event) {
  out.type = OMNI_DUPLEX_AUDIO;
  out.samples = event.samples.data();
  out.n_samples = event.samples.size();
  out.first = event.first ? 1 : 0;
  out.last = event.last ? 1 : 0;
}
void fill(omni_duplex_event& out, const omni::DuplexTurnEndEvent& event) {
  out.type = OMNI_DUPLEX_TURN_END;
  out.interrupted = event.interrupted ? 1 : 0;
}
void fill(omni_duplex_event& out, const omni::DuplexUnitEvent& event) {
  out.type = OMNI_DUPLEX_UNIT;
  out.encode_ms = event.encode_ms;
  out.decide_ms = event.decide_ms;
  out.speak_ms = event.speak_ms;
  out.render_ms = event.render_ms;
  out.latency_ms = event.latency_ms;
  out.queued_units = event.queued_units;
  out.cache_length = event.cache_length;
  out.cache_capacity = event.cache_capacity;
  out.is_listen = event.is_listen ? 1 : 0;
  out.dropped_frames = event.dropped_frames;
}
void fill(omni_duplex_event& out, const omni::DuplexDegradedEvent& event) {
  out.type = OMNI_DUPLEX_DEGRADED;
  out.level = static_cast<int32_t>(event.level);
  out.text = event.reason.c_str();
}
void fill(omni_duplex_event& out, const omni::DuplexInputDroppedEvent& event) {
  out.type = OMNI_DUPLEX_INPUT_DROPPED;
  out.seconds = event.seconds;
}

}  // namespace

omni_duplex_params omni_duplex_default_params(void) {
  const omni::DuplexOptions logic;
  const omni::DuplexSessionOptions session;
  omni_duplex_params params{};
  params.size = sizeof(params);
  params.window = "basic";
  params.steps = omni::Token2WavStreamOptions().steps;
  params.max_speak = logic.max_new_speak_tokens_per_chunk;
  params.temperature = logic.sampling.temperature;
  params.top_k = logic.sampling.top_k;
  params.top_p = logic.sampling.top_p;
  params.real_time = 1;
  params.max_slice_nums = session.max_slice_nums;
  params.max_frames_per_unit = session.max_frames_per_unit;
  params.max_queued_units = session.max_queued_units;
  return params;
}

omni_status omni_duplex_new(const omni_duplex_parts* parts, const omni_duplex_params* params,
                            omni_duplex** session) {
  return guarded([&] {
    require_pointer(parts, "parts");
    require_pointer(session, "session");
    const omni_duplex_params p = known(params, omni_duplex_default_params(), "params");
    require_array(p.reference, p.n_reference, "params->reference");
    require(p.n_reference <= 600 * kRate, ErrorCode::invalid_argument, "params->reference has ",
            p.n_reference / kRate, " seconds; 3 to 15 are useful");
    omni::DuplexSessionOptions options;
    options.real_time = p.real_time != 0;
    options.max_slice_nums = p.max_slice_nums;
    options.max_frames_per_unit = p.max_frames_per_unit;
    options.max_queued_units = p.max_queued_units;
    const omni::DuplexNetworks networks = networks_of(known(parts, omni_duplex_parts{}, "parts"));
    omni::DuplexStages stages =
        omni::make_duplex_stages(networks, stage_options(p, *networks.language_model));
    std::unique_ptr<omni_duplex> made(
        new omni_duplex{{std::move(stages), prompt_of(p), options}, {}, networks.vision != nullptr});
    *session = made.release();
  });
}

void omni_duplex_free(omni_duplex* session) {
  const std::unique_ptr<omni_duplex> owned(session);
}

omni_status omni_duplex_push_audio(omni_duplex* session, const float* samples, size_t count) {
  return guarded([&] {
    require_pointer(session, "session");
    require_array(samples, count, "samples");
    session->session.push_audio({samples, count});
  });
}

omni_status omni_duplex_push_frame(omni_duplex* session, const omni_image* image) {
  return guarded([&] {
    require_pointer(session, "session");
    require_pointer(image, "image");
    require_pointer(image->rgb, "image->rgb");
    require(session->sees, ErrorCode::invalid_argument, "the session has no picture encoder: parts->vision");
    require(image->width > 0 && image->height > 0 && image->width <= omni::kMaxImageSide &&
                image->height <= omni::kMaxImageSide,
            ErrorCode::invalid_argument, "an image of ", image->width, " x ", image->height,
            " pixels can't be encoded");
    const size_t row = size_t{3} * static_cast<size_t>(image->width);
    const size_t stride = image->stride != 0 ? image->stride : row;
    require(stride >= row, ErrorCode::invalid_argument, "image->stride is ", stride, ", a row has ", row,
            " bytes");
    omni::Image frame{image->width, image->height, {}};
    frame.rgb.reserve(row * static_cast<size_t>(image->height));
    for (int32_t y = 0; y < image->height; ++y) {
      const uint8_t* start = image->rgb + static_cast<size_t>(y) * stride;
      frame.rgb.insert(frame.rgb.end(), start, start + row);
    }
    session->session.push_frame(std::move(frame));
  });
}

omni_status omni_duplex_end_input(omni_duplex* session) {
  return guarded([&] {
    require_pointer(session, "session");
    session->session.end_input();
  });
}

omni_status omni_duplex_interrupt(omni_duplex* session) {
  return guarded([&] {
    require_pointer(session, "session");
    session->session.interrupt();
  });
}

omni_status omni_duplex_close(omni_duplex* session) {
  return guarded([&] {
    require_pointer(session, "session");
    session->session.close();
  });
}

omni_status omni_duplex_poll(omni_duplex* session, double timeout, omni_duplex_event* event) {
  return guarded([&] {
    require_pointer(session, "session");
    require_pointer(event, "event");
    require(timeout >= 0, ErrorCode::invalid_argument, "a timeout of ", timeout, " seconds is impossible");
    const size_t size = known_size(*event, "event");
    omni_duplex_event out{};
    out.size = event->size;
    const auto found = session->session.poll(session->current, std::chrono::duration<double>(timeout));
    if (found == omni::DuplexSession::Poll::event) {
      const omni::DuplexEvent& current = session->current;
      out.unit = current.unit;
      out.epoch = current.epoch;
      out.time = current.time;
      std::visit([&](const auto& what) { fill(out, what); }, current.what);
    } else {
      out.type = found == omni::DuplexSession::Poll::end ? OMNI_DUPLEX_END : OMNI_DUPLEX_NOTHING;
    }
    std::memcpy(event, &out, size);
  });
}

int64_t omni_duplex_epoch(const omni_duplex* session) {
  return session != nullptr ? session->session.epoch() : 0;
}
