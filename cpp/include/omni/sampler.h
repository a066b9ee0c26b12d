// Choosing the next token: one sampler for each way the model speaks, with the reference's order of steps.
#pragma once

#include "omni/export.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace omni {

class Tokenizer;

// All samplers: sample() takes the logits of one step, one for each token of the vocabulary, chooses an id
// and remembers it for the penalties. Throws Error(invalid_argument) for a wrong number of logits, for NaN or
// +inf, and if no token is allowed. Nothing is allocated from the second step on, but for the history. A
// temperature of 0 means greedy. Copies continue independently, random numbers included: snapshots.

// One answer of a chat, and the general text sampler.
struct ChatSamplerOptions {
  bool greedy = false;  // the most likely token, after penalties
  float temperature = 0.7F;
  int top_k = 100;                   // ties with the k-th are kept; 0: off
  float top_p = 0.8F;                // 1: off
  float repetition_penalty = 1.02F;  // on every id generated so far
  int min_new_tokens = 0;            // no stop token before so many
  uint64_t seed = 0;
};

class OMNI_API ChatSampler {
 public:
  ChatSampler(int32_t n_vocab, std::vector<int32_t> stop_ids, const ChatSamplerOptions& options = {});
  ChatSampler(const ChatSampler& other);
  ChatSampler& operator=(const ChatSampler& other);
  ~ChatSampler();
  int32_t sample(std::span<const float> logits);
  bool is_stop(int32_t id) const;
  const std::vector<int32_t>& history() const;
  // Forgets the history; the random numbers go on.
  void reset();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One answer of simplex streaming, generated in chunks.
struct StreamingSamplerOptions {
  bool greedy = false;
  float temperature = 0.7F;
  int top_k = 100;  // exactly k
  float top_p = 0.8F;
  float repetition_penalty = 1.02F;
  int penalty_window = 128;  // ids of earlier chunks that are penalized, besides those of this chunk
  float length_penalty = 1;  // above 1 makes stop tokens less likely
  uint64_t seed = 0;
};

class OMNI_API StreamingSampler {
 public:
  // `forbidden` is never chosen; see streaming_forbidden_ids().
  StreamingSampler(int32_t n_vocab, std::vector<int32_t> stop_ids, std::vector<int32_t> forbidden,
                   const StreamingSamplerOptions& options = {});
  StreamingSampler(const StreamingSampler& other);
  StreamingSampler& operator=(const StreamingSampler& other);
  ~StreamingSampler();
  void begin_chunk();
  int32_t sample(std::span<const float> logits);
  bool is_stop(int32_t id) const;
  const std::vector<int32_t>& history() const;
  void reset();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// What a streamed spoken answer must not contain: bad_token_ids(), `<unk>` and ASCII symbols. (The reference
// means wide symbols too, but looks them up in a spelling that finds `<unk>` instead.) Sorted.
OMNI_API std::vector<int32_t> streaming_forbidden_ids(const Tokenizer& tokenizer);

// A whole full-duplex session.
struct DuplexSamplerOptions {
  bool greedy = false;
  float temperature = 0.7F;
  int top_k = 100;                   // ties kept; 0: off
  float top_p = 0.8F;                // 0: off
  float repetition_penalty = 1.05F;  // divides whatever the sign, as the reference does
  int penalty_window = 512;          // ids
  float length_penalty = 1.1F;       // on the end of a turn
  float listen_prob_scale = 1;       // multiplies the logit of <|listen|>
  std::optional<int> listen_top_k;   // listen whenever <|listen|> is among so many best
  // The reference applies the two listen options to <|im_end|> by mistake; true does so too.
  bool listen_options_on_eos = false;
  uint64_t seed = 0;
};

// The special tokens that the duplex sampler knows, found in the tokenizer by their texts.
struct DuplexTokens {
  int32_t chunk_eos = -1, turn_eos = -1, listen = -1, im_end = -1;
  std::vector<int32_t> forbidden;  // <|tts_pad|>, <|chunk_eos|> (drawn beforehand) and bad_token_ids()

  OMNI_API static DuplexTokens of(const Tokenizer& tokenizer);
};

class OMNI_API DuplexSampler {
 public:
  DuplexSampler(int32_t n_vocab, DuplexTokens tokens, const DuplexSamplerOptions& options = {});
  DuplexSampler(const DuplexSampler& other);
  DuplexSampler& operator=(const DuplexSampler& other);
  ~DuplexSampler();
  // First asks whether the unit ends, with exactly the model's probability of <|chunk_eos|>; then chooses
  // from the rest.
  int32_t sample(std::span<const float> logits);
  // From the next step on; the seed has no effect here.
  void set_options(const DuplexSamplerOptions& options);
  const DuplexSamplerOptions& options() const;
  // All chosen ids but <|chunk_eos|> and listening by listen_top_k.
  const std::vector<int32_t>& history() const;
  void reset();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Speech tokens.
struct SpeechSamplerOptions {
  bool greedy = false;
  float temperature = 0.8F;
  float repetition_penalty = 1.05F;  // to the power of the token's count among the last 16
  float top_p = 0.85F;               // 1: off. Applied before top-k
  int top_k = 25;                    // 0: off. Both keep at least 3
  uint64_t seed = 0;
};

class OMNI_API SpeechSampler {
 public:
  SpeechSampler(int32_t n_codes, int32_t eos, const SpeechSamplerOptions& options = {});
  SpeechSampler(const SpeechSampler& other);
  SpeechSampler& operator=(const SpeechSampler& other);
  ~SpeechSampler();
  // `plain` leaves penalty, top-k and top-p out (first steps); `ban_eos` excludes the end after them.
  int32_t sample(std::span<const float> logits, bool plain, bool ban_eos);
  const std::vector<int32_t>& history() const;  // without eos
  void reset();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
