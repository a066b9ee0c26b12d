// session/duplex_networks.cpp - a duplex session's stages: encoders, language model, speech model, token2wav.
#include "omni/duplex_networks.h"

#include "omni/error.h"

#include <algorithm>

#include "session/language_model_session.h"

namespace omni {
namespace {

class Encoder : public DuplexEncoder {
 public:
  explicit Encoder(const DuplexNetworks& networks)
      : width_(networks.language_model->info().width),
        tokenizer_(networks.tokenizer),
        audio_(networks.audio),
        vision_(networks.vision) {
    if (audio_ != nullptr) {
      check_width("audio encoder", audio_->info().embed_width);
      stream_ = audio_->stream(MelStreamOptions::duplex());
    }
    if (vision_ != nullptr) check_width("picture encoder", vision_->info().embed_width);
  }

  void reset() override {
    if (stream_ != nullptr) stream_->reset();
  }

  DuplexEncodedUnit encode(const DuplexUnitInput& unit) override {
    check(unit);
    DuplexEncodedUnit encoded;
    encoded.text_ids = tokenizer_->encode(unit.text);
    for (size_t i = 0; i < unit.frames.size(); ++i) {
      encoded.images.push_back(encode_frame(unit.frames[i], slices_of(unit, i)));
    }
    // Sound last: the stream goes on only if nothing else was wrong.
    if (!unit.audio.empty()) stream_->push(unit.audio, encoded.audio);
    return encoded;
  }

  std::vector<float> encode_reference(std::span<const float> recording) override {
    require(audio_ != nullptr, ErrorCode::invalid_argument,
            "a recording needs the audio encoder, and the model was loaded without it");
    return audio_->encode(recording);
  }

 private:
  void check_width(const char* part, int64_t width) const {
    require(width == width_, ErrorCode::invalid_argument, "the ", part, " gives embeddings of width ", width,
            ", the language model takes ", width_, ": they belong to different models");
  }

  static int slices_of(const DuplexUnitInput& unit, size_t frame) {
    if (unit.max_slice_nums.empty()) return 1;
    return unit.max_slice_nums[unit.max_slice_nums.size() == 1 ? 0 : frame];
  }

  void check(const DuplexUnitInput& unit) const {
    require(!unit.audio.empty() || !unit.frames.empty() || !unit.text.empty(), ErrorCode::invalid_argument,
            "a unit needs audio, pictures or text");
    if (!unit.audio.empty()) {
      require(stream_ != nullptr, ErrorCode::invalid_argument,
              "sound needs the audio encoder, and the model was loaded without it");
      require(unit.audio.size() == static_cast<size_t>(kDuplexUnitSamples), ErrorCode::invalid_argument,
              "a unit of sound has ", kDuplexUnitSamples, " samples, not ", unit.audio.size());
    }
    require(unit.frames.empty() || vision_ != nullptr, ErrorCode::invalid_argument,
            "pictures need the picture encoder, and the model was loaded without it");
    const size_t limits = unit.max_slice_nums.size();
    require(limits <= 1 || limits == unit.frames.size(), ErrorCode::invalid_argument, limits,
            " values of max_slice_nums for ", unit.frames.size(), " pictures: give one, or one for each");
    for (size_t i = 0; i < unit.frames.size(); ++i) {
      const Image& frame = unit.frames[i];
      plan_slices({frame.width, frame.height}, vision_->slice_options(slices_of(unit, i)));
      require(frame.rgb.size() ==
                  size_t{3} * static_cast<size_t>(frame.width) * static_cast<size_t>(frame.height),
              ErrorCode::invalid_argument, "a picture of ", frame.width, "x", frame.height,
              " pixels can't have ", frame.rgb.size(), " bytes");
    }
  }

  std::vector<std::vector<float>> encode_frame(const Image& frame, int max_slices) {
    const size_t n = vision_->encode(frame.view(), max_slices, rows_);
    const auto size = static_cast<std::ptrdiff_t>(rows_.size() / n);
    std::vector<std::vector<float>> slices;
    for (auto at = rows_.begin(); at != rows_.end(); at += size) slices.emplace_back(at, at + size);
    return slices;
  }

  int64_t width_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<AudioEncoder> audio_;
  std::shared_ptr<VisionEncoder> vision_;
  std::unique_ptr<AudioStream> stream_;
  std::vector<float> rows_;
};

class Decider : public DuplexDecider {
 public:
  Decider(const DuplexNetworks& networks, const DuplexStageOptions& options)
      : session_(networks.language_model, networks.language_model->new_cache(options.n_ctx)),
        logic_(session_, *networks.tokenizer, options.logic) {}

  void prepare(const DuplexPrompt& prompt, std::span<const float> reference) override {
    logic_.prepare(prompt.prefix, reference, prompt.suffix, prompt.previous_marker);
  }
  DuplexResult step(const DuplexEncodedUnit& unit, bool force_listen) override {
    logic_.prefill(unit.view());
    DuplexResult result = logic_.generate(force_listen);
    logic_.finalize();
    return result;
  }
  bool turn_is_open() const override { return logic_.turn_is_open(); }
  int64_t cache_length() const override { return session_.length(); }
  int64_t cache_capacity() const override { return session_.capacity(); }

 private:
  LanguageModelSession session_;
  DuplexLogic logic_;
};

class Speech : public DuplexSpeech {
 public:
  Speech(const DuplexNetworks& networks, SpeechStreamOptions options) {
    const int64_t width = networks.language_model->info().width;
    require(networks.speech->info().llm_width == width, ErrorCode::invalid_argument,
            "the speech model takes hidden states of width ", networks.speech->info().llm_width,
            ", the language model gives ", width, ": they belong to different models");
    options.mode = SpeechMode::duplex;
    stream_ = networks.speech->stream(options);
  }

  void speak(const DuplexResult& unit, std::vector<int32_t>& tokens) override {
    stream_->push(unit.spoken_ids, unit.spoken_hidden, unit.end_of_turn);
    tokens.clear();
    while (stream_->next(group_)) tokens.insert(tokens.end(), group_.begin(), group_.end());
  }
  void cancel() override { stream_->flush(group_); }

 private:
  std::unique_ptr<SpeechStream> stream_;
  std::vector<int32_t> group_;
};

}  // namespace

DuplexStages make_duplex_stages(const DuplexNetworks& networks, const DuplexStageOptions& options) {
  require(networks.language_model != nullptr && networks.tokenizer != nullptr, ErrorCode::invalid_argument,
          "a duplex session needs a language model and its tokenizer");
  DuplexStages stages;
  stages.encoder = std::make_unique<Encoder>(networks);
  stages.decider = std::make_unique<Decider>(networks, options);
  if (networks.speech != nullptr && networks.token2wav != nullptr && networks.voice != nullptr) {
    stages.speech = std::make_unique<Speech>(networks, options.speech);
    stages.sound = std::make_unique<TokenWindows>(networks.token2wav, networks.voice, options.sound);
  }
  return stages;
}

}  // namespace omni
