// The language model: a Qwen3 decoder with token or embedding input, and its KV cache.
#pragma once

#include "omni/devices.h"
#include "omni/export.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace omni {

struct LanguageModelOptions {
  int n_ctx = 4096;             // positions that a new cache holds; at most the model's own limit
  int n_batch = 512;            // rows computed at once; longer input is split
  std::string kv_type = "f16";  // how keys and values are kept: "f32", "f16" or "q8_0"
  // How float weights are held: "stored", "bf16" or "q8_0" (see kernels/linear.h); quantised weights stay as
  // they are.
  std::string weight_format = "stored";
  bool repack = true;  // let quantised weights be copied into a layout with faster kernels
  DeviceOptions device;
};

// What a model is made of, from its file.
struct LanguageModelInfo {
  std::string architecture;  // "qwen3"
  int64_t n_layers = 0;
  int64_t width = 0;    // D, the size of a hidden state
  int64_t n_vocab = 0;  // V
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t ffn_width = 0;
  int64_t n_ctx_train = 0;
  uint64_t parameters = 0;
  uint64_t file_bytes = 0;
  uint64_t copied_bytes = 0;  // weights held a second time, converted or repacked
  // What every forward pass multiplies with: elements, bytes, and the type that most of it has.
  uint64_t matrix_parameters = 0;
  uint64_t matrix_bytes = 0;
  std::string matrix_type;
};

// Sizes for a model with random weights, to measure a machine without a file. Defaults: MiniCPM-o 4.5
// (Qwen3-8B).
struct SyntheticLanguageModel {
  std::string type = "Q4_K_M";  // F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, ...
  int64_t n_layers = 36;
  int64_t width = 4096;
  int64_t n_vocab = 151748;
  int64_t n_heads = 32;
  int64_t n_kv_heads = 8;
  int64_t head_dim = 128;
  int64_t ffn_width = 12288;
};

class LanguageModel;

// Keys and values of one conversation. Row i of the cache has position i: rows are always compact. A cache
// belongs to the model that made it and keeps it alive. One thread at a time.
class OMNI_API KvCache {
 public:
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  int64_t length() const;    // rows in use
  int64_t capacity() const;  // rows there is room for

  void reset();
  // Keeps the first `length` rows. Rows that were cut and not overwritten come back with extend().
  void truncate(int64_t length);
  // Removes rows [first, first + count); the rows behind move down and their keys are turned to their new
  // positions.
  void remove(int64_t first, int64_t count);
  // Moves rows [first, first + count) to `target` on, turning their keys to the new positions. Neither side
  // is bound to length(): together with truncate() and extend() this rebuilds a context around rows that are
  // kept.
  void move(int64_t first, int64_t count, int64_t target);
  // Takes rows behind length() into use again, up to `length`; they must have been written before.
  void extend(int64_t length);
  // A copy with a state of its own.
  std::unique_ptr<KvCache> clone() const;

  // Keys (after norm and rotation) or values of rows [first, first + count) of one layer, as float:
  // [count, n_kv_heads, head_dim], for inspection and tests.
  std::vector<float> keys(int64_t layer, int64_t first, int64_t count) const;
  std::vector<float> values(int64_t layer, int64_t first, int64_t count) const;

  uint64_t bytes() const;

  struct State;

 private:
  friend class LanguageModel;
  explicit KvCache(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// What forward() should give back.
enum class Hidden { rows, all };  // hidden states of the rows whose logits are asked for, or of every row

struct ForwardResult {
  std::vector<float> hidden;  // after the final norm: [n or n_rows, width]
  std::vector<float> logits;  // [n_rows, n_vocab]
};

// Weights of a language model. Any number of caches share it. forward() may be called from several threads
// with different caches; calls on one model run one after another.
class OMNI_API LanguageModel : public std::enable_shared_from_this<LanguageModel> {
 public:
  // Opens a GGUF file. Throws Error: file, format, unsupported, out_of_memory, invalid_argument.
  static std::shared_ptr<LanguageModel> open(const std::string& path,
                                             const LanguageModelOptions& options = {});
  // A model with random weights of the given sizes, in memory.
  static std::shared_ptr<LanguageModel> synthetic(const SyntheticLanguageModel& sizes,
                                                  const LanguageModelOptions& options = {});
  ~LanguageModel();
  LanguageModel(const LanguageModel&) = delete;
  LanguageModel& operator=(const LanguageModel&) = delete;

  const LanguageModelInfo& info() const;
  const LanguageModelOptions& options() const;
  std::string device_name() const;

  // Rows of the embedding table: ids [n] -> out [n, width]. Throws Error(invalid_argument) on an unknown id.
  void embed(std::span<const int32_t> ids, std::span<float> out) const;

  // A new, empty cache of `n_ctx` rows (0: options().n_ctx).
  std::unique_ptr<KvCache> new_cache(int64_t n_ctx = 0);

  // Appends n rows to the cache and computes them. `rows` are indices in [0, n) whose logits are wanted,
  // ascending; `embeds` is [n, width]. On an error the cache is as before. `result` is overwritten; its
  // memory is reused. Throws Error(context_full) if the rows don't fit, Error(invalid_argument) on bad ids or
  // values.
  void forward(KvCache& cache, std::span<const int32_t> ids, std::span<const int32_t> rows, Hidden hidden,
               ForwardResult& result);
  void forward(KvCache& cache, std::span<const float> embeds, std::span<const int32_t> rows, Hidden hidden,
               ForwardResult& result);

  struct Impl;

 private:
  explicit LanguageModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
