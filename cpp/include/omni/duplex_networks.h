// The stages of a full-duplex session over the real networks.
#pragma once

#include "omni/audio_encoder.h"
#include "omni/duplex_stages.h"
#include "omni/language_model.h"
#include "omni/speech.h"
#include "omni/token2wav.h"
#include "omni/vision_encoder.h"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace omni {

// What a session is made of; sessions share it. A session speaks if speech, token2wav and voice are all
// there.
struct DuplexNetworks {
  std::shared_ptr<LanguageModel> language_model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<AudioEncoder> audio;    // null: a session without ears
  std::shared_ptr<VisionEncoder> vision;  // null: without eyes
  std::shared_ptr<SpeechModel> speech;
  std::shared_ptr<Token2Wav> token2wav;
  std::shared_ptr<const Voice> voice;
};

struct DuplexSoundOptions {
  Token2WavStreamOptions stream;  // `silence` has no effect: every turn starts with three silent tokens
  // Renders what every unit has, not only the first one of a turn; the public server does so.
  bool flush_every_unit = false;
  // Other numbers of flow steps to get ready now. Preparing takes seconds; set_steps() to one of these none.
  std::vector<int> other_steps;
};

struct DuplexStageOptions {
  DuplexOptions logic;
  int64_t n_ctx = 0;           // rows of the context; 0: as the language model was opened with
  SpeechStreamOptions speech;  // its mode is duplex, whatever it says
  DuplexSoundOptions sound;
};

// All stages of one session; speech and sound are null if a network for them is missing. Takes as long as
// preparing the voice. Throws Error(invalid_argument) for options or networks that don't fit together,
// Error(out_of_memory).
OMNI_API DuplexStages make_duplex_stages(const DuplexNetworks& networks,
                                         const DuplexStageOptions& options = {});

// Cuts a unit's speech tokens into windows as the published code does, and renders them.
//
// A turn starts with three silent tokens. 28 tokens make a window; the last three of them are its look-ahead,
// and are seen again. The first unit of a turn is rendered as soon as there are 8, the turn's end as a whole.
class OMNI_API TokenWindows : public DuplexSound {
 public:
  // Prepares the voice. Throws Error(invalid_argument) if it can't be used with these steps.
  TokenWindows(std::shared_ptr<Token2Wav> model, std::shared_ptr<const Voice> voice,
               const DuplexSoundOptions& options = {});
  ~TokenWindows() override;

  // Throws Error(invalid_argument), nothing changed, for tokens out of range. After any other error the turn
  // is cancelled.
  void render(std::span<const int32_t> tokens, bool starts_turn, bool end_of_turn,
              std::vector<float>& wave) override;
  void cancel() override;
  bool set_steps(int steps) override;
  int steps() const override;

  // A copy with a state of its own.
  std::unique_ptr<TokenWindows> clone() const;
  // Tokens that wait for the next unit.
  std::span<const int32_t> buffered() const;

 private:
  struct Impl;
  explicit TokenWindows(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
