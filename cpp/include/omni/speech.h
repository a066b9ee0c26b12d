// The speech model: text tokens with the language model's hidden states in, S3 speech tokens (25 a second)
// out.
#pragma once

#include "omni/devices.h"
#include "omni/export.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace omni {

struct SpeechModelOptions {
  int n_ctx = 4096;             // positions that a stream holds before its window slides
  std::string kv_type = "f16";  // how keys and values are kept: "f32", "f16" or "q8_0"
  // How float weights are held: "stored", "bf16" or "q8_0" (see kernels/linear.h).
  std::string weight_format = "stored";
  bool repack = true;  // let quantised weights be copied into a layout with faster kernels
  DeviceOptions device;
};

// What a model is made of, from its files.
struct SpeechModelInfo {
  int64_t n_layers = 0;
  int64_t width = 0;      // W, of a condition
  int64_t llm_width = 0;  // D, of the hidden states that go in
  int64_t n_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn_width = 0;
  int64_t n_text = 0;         // text ids are below this
  int64_t n_codes = 0;        // speech tokens and the end of speech: 6562
  int32_t end_of_speech = 0;  // n_codes - 1, never given out
  int32_t audio_bos = 0;      // row of the text table that asks for speech
  int32_t text_eos = 0;       // row of the text table that says that no more text follows
  uint64_t parameters = 0;
  uint64_t copied_bytes = 0;  // weights held a second time, converted or repacked
  // What every speech token multiplies with: elements, bytes, and the type that most of it has.
  uint64_t matrix_parameters = 0;
  uint64_t matrix_bytes = 0;
  std::string matrix_type;
};

// Sizes for a model with random weights, to measure a machine without files. Defaults: MiniCPM-o 4.5.
struct SyntheticSpeechModel {
  std::string type = "F16";  // of the trunk: F32, F16, BF16 or Q8_0; tables are F32 as in the official file
  int64_t n_layers = 20;
  int64_t width = 768;
  int64_t llm_width = 4096;
  int64_t n_heads = 12;
  int64_t ffn_width = 3072;
  int64_t n_codes = 6562;
  int64_t n_text = 4096;  // the published table has 152064 rows; rows that are not read don't matter
};

// Who speaks, and with it the sequence and the sampling rules.
enum class SpeechMode {
  duplex,   // one block for each unit of a second: at most 25 tokens, exactly 25 in the middle of a turn
  simplex,  // one block for every 10 text tokens; each goes on until the model ends it
  chat,     // the whole answer is one block; at least 50 tokens
};

// What a simplex stream still sees of earlier blocks.
enum class SpeechAttention {
  full,               // everything of the turn
  sliding_window,     // the last `window` positions
  sliding_recompute,  // the block before, computed again from position 0
  reindex,            // the first block and the one before, moved together
};

struct SpeechStreamOptions {
  SpeechMode mode = SpeechMode::duplex;
  bool greedy = false;       // the most likely token after the penalty: for tests
  float temperature = 0.8F;  // 0: greedy
  float repetition_penalty = 1.05F;
  float top_p = 0.85F;  // simplex and chat
  int top_k = 25;       // simplex and chat; 0: off
  uint64_t seed = 0;
  int min_tokens = -1;  // of a block, no end of speech before; -1: duplex 25 in mid-turn, simplex 0, chat 50
  int max_tokens = -1;  // of a block; -1: duplex 25, simplex 500, chat 2047
  SpeechAttention attention = SpeechAttention::full;  // others: simplex only
  int window = 300;                                   // positions that SpeechAttention::sliding_window keeps
};

SpeechMode OMNI_API parse_speech_mode(const std::string& name);  // "duplex", "simplex", "chat"
// "full_attention", "sliding_window", "sliding_recompute", "reindex"
SpeechAttention OMNI_API parse_speech_attention(const std::string& name);

class SpeechModel;

// The speech of one conversation. Calls from several threads run one after another. Keeps the model alive.
//
//   stream->push(ids, hidden, end_of_turn);
//   while (stream->next(tokens)) voice.push(tokens);
class OMNI_API SpeechStream {
 public:
  ~SpeechStream();
  SpeechStream(const SpeechStream&) = delete;
  SpeechStream& operator=(const SpeechStream&) = delete;

  // Takes n text tokens and the hidden state [n, D] that the language model gave when each was its input
  // (after the final norm). `last`: the turn's text ends here.
  //
  // Duplex: one unit, n may be 0. Simplex: any number; every 10 make a block. Without `last`, more text will
  // follow, so a full block is spoken at once. Chat: any number; speech begins with `last`.
  //
  // Throws Error(invalid_argument) on unknown ids, NaN, wrong sizes, or (duplex; any mode after `last`) if
  // next() has not been called until it gave false; the stream is as before then. Throws Error(context_full)
  // if an answer in chat mode has no room in n_ctx.
  void push(std::span<const int32_t> ids, std::span<const float> hidden, bool last);

  // The same with rows [n, W] from SpeechModel::condition().
  void push_conditions(std::span<const float> rows, bool last);

  // Computes speech tokens until 25 have come together or what was pushed is used up. True with 1 to 25
  // tokens; false when there is nothing to give until the next push. Tokens that don't make 25 yet wait for
  // the next block (simplex); the end of the turn gives them all. After any other error than bad arguments
  // the stream is as after reset().
  bool next(std::vector<int32_t>& tokens);

  // Ends a turn whose text ended without `last` (a length limit, an interruption): gives the tokens that
  // wait.
  void flush(std::vector<int32_t>& tokens);

  // Forgets everything; the stream is as it was made, random numbers included.
  void reset();
  // A copy with a state of its own.
  std::unique_ptr<SpeechStream> clone() const;

  const SpeechStreamOptions& options() const;
  int64_t position() const;  // of the next row in this turn (text_start_pos); 0 between turns
  int64_t n_cached() const;  // rows of the cache that the next row will see

  struct Impl;

 private:
  friend class SpeechModel;
  explicit SpeechStream(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Weights of a speech model. Any number of streams share it, from any thread; their passes run one after
// another.
class OMNI_API SpeechModel : public std::enable_shared_from_this<SpeechModel> {
 public:
  // `projector` may be empty: the speech file holds the same numbers. Throws Error: file, format,
  // unsupported, out_of_memory, invalid_argument.
  static std::shared_ptr<SpeechModel> open(const std::string& speech, const std::string& projector,
                                           const SpeechModelOptions& options = {});
  // A model with random weights of the given sizes, in memory.
  static std::shared_ptr<SpeechModel> synthetic(const SyntheticSpeechModel& sizes,
                                                const SpeechModelOptions& options = {});
  ~SpeechModel();
  SpeechModel(const SpeechModel&) = delete;
  SpeechModel& operator=(const SpeechModel&) = delete;

  const SpeechModelInfo& info() const;
  const SpeechModelOptions& options() const;
  std::string device_name() const;

  std::unique_ptr<SpeechStream> stream(const SpeechStreamOptions& options = {});

  // Conditions of text tokens: ids [n], hidden [n, D] -> out [n, W], the text embedding plus the projected
  // state at length 1. With `hidden` empty, the bare text embeddings (audio_bos, text_eos).
  void condition(std::span<const int32_t> ids, std::span<const float> hidden, std::span<float> out) const;
  // Embeddings of speech tokens: ids [n] -> out [n, W].
  void embed(std::span<const int32_t> ids, std::span<float> out) const;
  // Teacher forcing: rows [n, W] from position 0 in one go -> hidden states after the final norm [n, W] and
  // logits [n, n_codes].
  void evaluate(std::span<const float> rows, std::span<float> hidden, std::span<float> logits) const;

  struct Impl;

 private:
  explicit SpeechModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
