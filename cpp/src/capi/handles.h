// capi/handles.h - what is behind the handles that more than one file knows.
#pragma once

#include "omni/audio_encoder.h"
#include "omni/language_model.h"
#include "omni/omni.h"
#include "omni/speech.h"
#include "omni/token2wav.h"
#include "omni/tokenizer.h"
#include "omni/vision_encoder.h"
#include "omni/voice.h"

#include <memory>

struct omni_tokenizer {
  omni::Tokenizer tokenizer;
};
struct omni_model {
  std::shared_ptr<omni::LanguageModel> model;
};
struct omni_vision {
  std::shared_ptr<omni::VisionEncoder> encoder;
};
struct omni_audio {
  std::shared_ptr<omni::AudioEncoder> encoder;
};
struct omni_voice {
  omni::Voice voice;
};
struct omni_speech_model {
  std::shared_ptr<omni::SpeechModel> model;
};
struct omni_token2wav {
  std::shared_ptr<omni::Token2Wav> token2wav;
};
