// audio/audio_stream.cpp - the encoder second by second, against keys and values of the past.
#include "omni/error.h"

#include <algorithm>

#include "audio/audio_impl.h"

namespace omni {
namespace {

// Cache rows are read in whole blocks of this many, so that a second finds its graph again.
constexpr int64_t kBlock = 256;

int64_t round_up(int64_t value) {
  return (value + kBlock - 1) / kBlock * kBlock;
}

}  // namespace

struct AudioStream::State {
  State(std::shared_ptr<const AudioEncoder> owner_, AudioEncoder::Impl& impl_,
        const MelStreamOptions& options)
      : owner(std::move(owner_)),
        impl(impl_),
        executor(impl.executor),
        mel(impl.mel, options),
        graphs(executor, impl.encoder.max_nodes()) {
    const EncoderConfig& c = impl.encoder.config();
    const auto n_layers = static_cast<size_t>(c.n_layers);
    context.reset(ggml_init({2 * n_layers * ggml_tensor_overhead(), nullptr, true}));
    require(context != nullptr, ErrorCode::out_of_memory, "no memory for an audio stream");
    for (size_t i = 0; i < n_layers; ++i) {
      cache.k.push_back(ggml_new_tensor_2d(context.get(), impl.kv_type, c.width, round_up(c.n_positions)));
      cache.v.push_back(ggml_new_tensor_2d(context.get(), impl.kv_type, c.width, round_up(c.n_positions)));
    }
    buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), executor->device().buffer_type()));
    require(buffer != nullptr, ErrorCode::out_of_memory,
            "not enough memory for the keys and values of an audio ", "stream; use kv_type f16");
    // Rows that are masked out are still multiplied: they must hold numbers.
    ggml_backend_buffer_clear(buffer.get(), 0);
  }

  // Encodes a chunk and appends its embeddings, at most `most`.
  int64_t encode(const MelChunk& chunk, int64_t most, std::vector<float>& embeds);

  std::shared_ptr<const AudioEncoder> owner;
  AudioEncoder::Impl& impl;
  std::shared_ptr<Executor> executor;
  MelStream mel;
  int64_t length = 0;  // positions in the cache

  ContextPtr context;
  BufferPtr buffer;
  EncoderCache cache;
  GraphCache<EncoderTensors> graphs;

  // Reused between chunks, so that the steady state allocates nothing.
  std::vector<int32_t> rows;
  std::vector<int64_t> cache_rows;
  std::vector<int32_t> seen;
  std::vector<ggml_fp16_t> mask;
  std::vector<float> encoded;
  std::vector<float> pooled;
};

int64_t AudioStream::State::encode(const MelChunk& chunk, int64_t most, std::vector<float>& embeds) {
  const EncoderConfig& c = impl.encoder.config();
  const int64_t made = audio_position_count(chunk.frames);
  // Positions that lie on frames of the context only complete the convolutions of the others.
  const int64_t skipped = (chunk.prefix + 1) / 2;
  const int64_t kept = made - skipped - (chunk.suffix + 1) / 2;
  encoded.clear();
  if (kept <= 0) return 0;
  // The reference counts the positions before it drops those of the context.
  if (length > 0 && length + made >= c.n_positions) length = 0;

  EncoderShape shape{.frames = chunk.frames,
                     .skipped = skipped,
                     .positions = kept,
                     .projected = kept,
                     .n_kv = round_up(length + kept),
                     .limited = true};
  const std::lock_guard lock(executor->mutex());
  EncoderTensors& t = graphs.get(shape.key(), [&](Graph& g) { return impl.encoder.build(g, shape, &cache); });
  const auto n = static_cast<size_t>(kept);
  rows.resize(n);
  cache_rows.resize(n);
  for (size_t i = 0; i < n; ++i) {
    rows[i] = static_cast<int32_t>(length) + static_cast<int32_t>(i);
    cache_rows[i] = rows[i];
  }
  seen.assign(n, static_cast<int32_t>(length + kept));
  executor->set<float>(t.mel, chunk.data);
  executor->set<int32_t>(t.rows, rows);
  executor->set<int64_t>(t.cache_rows, cache_rows);
  t.visible.set(*executor, seen, mask);
  graphs.run();
  length += kept;
  encoded.resize(static_cast<size_t>(ggml_nelements(t.encoded)));
  executor->get<float>(t.encoded, std::span(encoded));
  if (t.embeds == nullptr) return 0;
  pooled.resize(static_cast<size_t>(ggml_nelements(t.embeds)));
  executor->get<float>(t.embeds, std::span(pooled));
  const int64_t given = std::min(most, t.embeds->ne[1]);
  embeds.insert(embeds.end(), pooled.begin(), pooled.begin() + given * c.embed_width);
  return given;
}

AudioStream::AudioStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
AudioStream::~AudioStream() = default;

std::unique_ptr<AudioStream> AudioEncoder::stream(const MelStreamOptions& options) {
  return std::unique_ptr<AudioStream>(
      new AudioStream(std::make_unique<AudioStream::State>(shared_from_this(), *impl_, options)));
}

int64_t AudioStream::push(std::span<const float> samples, std::vector<float>& embeds) {
  State& s = *state_;
  require_finite(samples);
  int64_t count = 0;
  do {
    if (const auto chunk = s.mel.push(samples)) {
      count += s.encode(*chunk, audio_position_count(chunk->frames) / s.impl.info.pool, embeds);
    }
  } while (!samples.empty());
  return count;
}

int64_t AudioStream::flush(std::vector<float>& embeds) {
  State& s = *state_;
  const auto chunk = s.mel.flush();
  if (!chunk) return 0;
  // What entered decides, not the frames: the lead-in gives a few more of them.
  const int64_t entered = audio_position_count(mel_frame_count(chunk->new_samples)) / s.impl.info.pool;
  if (entered == 0) return 0;
  return s.encode(*chunk, entered, embeds);
}

void AudioStream::reset() {
  state_->mel.reset();
  state_->length = 0;
  state_->encoded.clear();
}

std::unique_ptr<AudioStream> AudioStream::clone() const {
  const State& s = *state_;
  auto copy = std::make_unique<State>(s.owner, s.impl, s.mel.options());
  copy->mel = s.mel;
  copy->length = s.length;
  const std::lock_guard lock(s.executor->mutex());
  copy_tensors(*s.context, *copy->context);
  return std::unique_ptr<AudioStream>(new AudioStream(std::move(copy)));
}

int64_t AudioStream::length() const {
  return state_->length;
}
std::span<const float> AudioStream::encoded() const {
  return state_->encoded;
}

}  // namespace omni
