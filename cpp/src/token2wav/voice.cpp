// token2wav/voice.cpp - checking, saving and loading voices.
#include "omni/voice.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/gguf_builder.h"
#include "base/gguf_file.h"

namespace omni {
namespace {

constexpr char kArchitecture[] = "omni-voice";
constexpr char kTokens[] = "voice.tokens";
constexpr char kEmbedding[] = "voice.embedding";
constexpr char kMel[] = "voice.mel";
// An hour, far beyond what any model takes: guards sizes read from files.
constexpr int64_t kMaxTokens = 25 * 3600;

template <typename T>
std::vector<T> read(const GgufFile& file, const char* name, ggml_type type,
                    std::initializer_list<int64_t> ne) {
  const GgufTensor& t = file.tensor(name, ne);
  require(t.type == type, ErrorCode::format, file.path(), ": tensor '", name, "' is ", ggml_type_name(t.type),
          ", expected ", ggml_type_name(type));
  std::vector<T> values(static_cast<size_t>(t.elements()));
  std::memcpy(values.data(), t.data, values.size() * sizeof(T));
  return values;
}

Voice from_prompt_cache(std::shared_ptr<const GgufFile> file) {
  Voice voice;
  const GgufTensor& speaker = file->tensor("prompt_cache.spk_cb");
  require(speaker.elements() == Voice::kEmbeddingSize && speaker.type == GGML_TYPE_F32, ErrorCode::format,
          file->path(), ": prompt_cache.spk_cb must be ", Voice::kEmbeddingSize, " F32 values");
  voice.embedding.resize(Voice::kEmbeddingSize);
  std::memcpy(voice.embedding.data(), speaker.data, speaker.size);
  const uint32_t steps = file->u32("mtmd.prompt_cache.n_timesteps", 0);
  const GgufTensor& encoder = file->tensor("prompt_cache.conformer_att_cache");
  const GgufTensor& flow = file->tensor("prompt_cache.estimator_att_cache");
  require(
      encoder.ne[1] == flow.ne[1] && flow.ne[1] >= 6 && flow.ne[1] % 2 == 0 && flow.ne[1] <= 2 * kMaxTokens,
      ErrorCode::format, file->path(), ": the caches hold ", encoder.ne[1], " and ", flow.ne[1],
      " mel frames; they must agree and be even");
  require(steps >= 1 && steps <= 1000, ErrorCode::format, file->path(), ": made for ", steps,
          " flow steps, which is impossible");
  voice.cache_steps = static_cast<int>(steps);
  voice.cache = std::move(file);
  return voice;
}

}  // namespace

int64_t Voice::frames() const {
  if (cache != nullptr) return cache->tensor("prompt_cache.estimator_att_cache").ne[1];
  return kFramesPerToken * static_cast<int64_t>(tokens.size());
}

void Voice::check() const {
  const auto finite = [](float v) { return std::isfinite(v); };
  require(static_cast<int64_t>(embedding.size()) == kEmbeddingSize, ErrorCode::invalid_argument,
          "a voice has a speaker vector of ", kEmbeddingSize, " values, not ", embedding.size());
  require(std::all_of(embedding.begin(), embedding.end(), finite), ErrorCode::invalid_argument,
          "the speaker vector holds NaN or infinite values");
  if (cache != nullptr) return;
  require(tokens.size() >= 3, ErrorCode::invalid_argument,
          "a voice needs at least 3 speech tokens (0.12 s), this one has ", tokens.size());
  require(static_cast<int64_t>(tokens.size()) <= kMaxTokens, ErrorCode::invalid_argument, "a voice of ",
          tokens.size(), " speech tokens is too long");
  require(static_cast<int64_t>(mel.size()) == frames() * kMelBins, ErrorCode::invalid_argument, "a voice of ",
          tokens.size(), " tokens has a mel of ", frames(), " x ", kMelBins, " values, this one has ",
          mel.size());
  require(std::all_of(mel.begin(), mel.end(), finite), ErrorCode::invalid_argument,
          "the mel of the voice holds NaN or infinite values");
  require(std::all_of(tokens.begin(), tokens.end(), [](int32_t id) { return id >= 0; }),
          ErrorCode::invalid_argument, "the voice holds negative speech tokens");
}

void Voice::save(const std::string& path) const {
  require(cache == nullptr, ErrorCode::unsupported,
          "a voice from a prompt cache holds no recording; copy its file instead");
  check();
  GgufBuilder builder;
  builder.set("general.architecture", std::string(kArchitecture));
  builder.tensor(kTokens, GGML_TYPE_I32, {static_cast<int64_t>(tokens.size())});
  builder.tensor(kEmbedding, GGML_TYPE_F32, {kEmbeddingSize});
  builder.tensor(kMel, GGML_TYPE_F32, {kMelBins, frames()});
  const auto file = builder.build(path, [&](const GgufTensor& t, uint8_t* data) {
    const void* source = t.name == kTokens      ? static_cast<const void*>(tokens.data())
                         : t.name == kEmbedding ? static_cast<const void*>(embedding.data())
                                                : static_cast<const void*>(mel.data());
    std::memcpy(data, source, t.size);
  });
  file->save(path);
}

Voice Voice::load(const std::string& path) {
  auto file = std::make_shared<const GgufFile>(path);
  if (file->find_tensor("prompt_cache.spk_cb") != nullptr) return from_prompt_cache(std::move(file));
  require(file->text("general.architecture", "") == kArchitecture, ErrorCode::format, path,
          ": is neither a voice nor a prompt cache");
  const int64_t n = file->tensor(kTokens).ne[0];
  require(n >= 1 && n <= kMaxTokens, ErrorCode::format, path, ": a voice of ", n, " tokens is impossible");
  Voice voice;
  voice.tokens = read<int32_t>(*file, kTokens, GGML_TYPE_I32, {n});
  voice.embedding = read<float>(*file, kEmbedding, GGML_TYPE_F32, {kEmbeddingSize});
  voice.mel = read<float>(*file, kMel, GGML_TYPE_F32, {kMelBins, kFramesPerToken * n});
  try {
    voice.check();
  } catch (const Error& e) {
    fail(ErrorCode::format, path, ": ", e.what());
  }
  return voice;
}

}  // namespace omni
