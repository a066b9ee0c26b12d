// What a unit of a full-duplex session passes through: perception, decision, speech, sound. The stages are
// apart so that a session can run them side by side, and abstract so that it can be tested without networks.
#pragma once

#include "omni/duplex.h"
#include "omni/export.h"
#include "omni/vision.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace omni {

// What was heard and seen in one unit. Everything may be absent, but not all of it.
struct DuplexUnitInput {
  std::vector<float> audio;         // 16 kHz mono: kDuplexUnitSamples of them, or none
  std::vector<Image> frames;        // in the order of time
  std::vector<int> max_slice_nums;  // one for each frame, or one for all; empty: 1
  std::string text;                 // fed behind the sound
};

constexpr int64_t kDuplexUnitSamples = 16000;  // a second at 16 kHz, the first unit included

// The same as rows of embeddings, [rows, width] each.
struct DuplexEncodedUnit {
  std::vector<std::vector<std::vector<float>>> images;  // each picture: its overview and then its slices
  std::vector<float> audio;
  std::vector<int32_t> text_ids;

  DuplexInput view() const;  // valid as long as the unit
};

// What a session begins with.
struct DuplexPrompt {
  // Fed as they are, special tokens included, before and after the reference recording.
  std::string prefix;
  std::string suffix;
  std::vector<float> reference;  // 16 kHz mono, or none
  std::string previous_marker = "\n\nprevious: ";
};

// Each stage is used by one thread at a time; different stages by different threads at once.
// reset() makes a stage as it was made. After an error other than bad arguments a stage must be reset.

class OMNI_API DuplexEncoder {
 public:
  virtual ~DuplexEncoder() = default;
  virtual void reset() = 0;
  // Throws Error(invalid_argument), the stage unchanged, for sound of another length, sound that is not
  // finite, or pictures of impossible sizes.
  virtual DuplexEncodedUnit encode(const DuplexUnitInput& unit) = 0;
  // Rows of a recording as a prompt has them, ten a second. Leaves the stage as it is.
  virtual std::vector<float> encode_reference(std::span<const float> recording) = 0;
};

class OMNI_API DuplexDecider {
 public:
  virtual ~DuplexDecider() = default;
  // `reference`: rows of encode_reference(), or none.
  virtual void prepare(const DuplexPrompt& prompt, std::span<const float> reference) = 0;
  // Feeds one unit, decides, and generates its text. With `force_listen` the unit listens, and an open turn
  // is closed.
  virtual DuplexResult step(const DuplexEncodedUnit& unit, bool force_listen) = 0;
  virtual bool turn_is_open() const = 0;
  virtual int64_t cache_length() const = 0;
  virtual int64_t cache_capacity() const = 0;
};

class OMNI_API DuplexSpeech {
 public:
  virtual ~DuplexSpeech() = default;
  // Speech tokens of a unit that speaks; `tokens` is replaced by at most 25 of them (fewer, or none, at the
  // beginning and the end of a turn).
  virtual void speak(const DuplexResult& unit, std::vector<int32_t>& tokens) = 0;
  // Ends the turn where it is, without a sound: an interruption.
  virtual void cancel() = 0;
};

class OMNI_API DuplexSound {
 public:
  virtual ~DuplexSound() = default;
  // Sound of a speaking unit's tokens, 24 kHz; `wave` is replaced, and may be empty. Starts the first unit of
  // a turn early, gives everything at its end.
  virtual void render(std::span<const int32_t> tokens, bool starts_turn, bool end_of_turn,
                      std::vector<float>& wave) = 0;
  virtual void cancel() = 0;
  // Flow steps from the next turn on. False if the voice doesn't allow another number.
  virtual bool set_steps(int steps) = 0;
  virtual int steps() const = 0;
};

// Speech and sound may both be null: answers are text only then.
struct DuplexStages {
  std::unique_ptr<DuplexEncoder> encoder;
  std::unique_ptr<DuplexDecider> decider;
  std::unique_ptr<DuplexSpeech> speech;
  std::unique_ptr<DuplexSound> sound;
};

}  // namespace omni
