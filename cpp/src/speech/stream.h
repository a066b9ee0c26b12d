// speech/stream.h - a turn of speech: which blocks, which rules for the tokens, when it ends.
#pragma once

#include "omni/sampler.h"
#include "omni/speech.h"

#include <memory>
#include <mutex>
#include <vector>

#include "speech/model.h"
#include "speech/window.h"

namespace omni {

// What changes while a stream speaks, beside its window and its random numbers.
struct SpeechProgress {
  std::vector<float> conditions;  // [n, W], of text that waits for its block
  bool unit_waits = false;        // duplex: a unit was pushed
  bool last = false;              // the turn's text has ended
  bool closed = false;            // the block that ends the turn has begun
  bool speaking = false;          // inside a block
  int tokens_in_block = 0;
  int min_tokens = 0;          // of this block
  std::vector<int32_t> ready;  // tokens that were not given yet
};

struct SpeechStream::Impl : SpeechProgress {
  Impl(std::shared_ptr<const SpeechModel> owner, const SpeechModel::Impl& model,
       const SpeechStreamOptions& options);

  bool busy() const;  // inside a block or a unit, or with tokens to give
  std::span<float> admit(size_t count);
  void accept(bool last);
  bool begin_block();  // false: nothing to speak yet
  void step();         // one speech token, or the end of the block
  void end_block();
  void end_turn();
  void give(std::vector<int32_t>& tokens, size_t count);
  void reset();

  std::shared_ptr<const SpeechModel> owner;
  const SpeechModel::Impl& model;
  SpeechStreamOptions options;  // min_tokens and max_tokens resolved, but for duplex in mid-turn
  std::mutex mutex;
  SpeechSampler sampler;
  SpeechSampler fresh_sampler;  // as made, for reset()
  SpeechWindow window;

  std::vector<float> row;     // [W]
  std::vector<float> logits;  // [n_codes]
};

}  // namespace omni
