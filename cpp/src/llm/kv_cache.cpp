// llm/kv_cache.cpp - rows of keys and values: allocation, removal, moving, copies.
#include "llm/kv_cache.h"

#include "omni/error.h"

#include <algorithm>
#include <limits>

namespace omni {
namespace {

constexpr int64_t kMoveBlock = 256;  // rows that one run of the move graph takes
// Rows are read in whole blocks of this many, so that a decoding step finds its graph again.
constexpr int64_t kKvBlock = 256;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

ggml_type parse_kv_type(const std::string& name) {
  if (name == "f32") return GGML_TYPE_F32;
  if (name == "f16") return GGML_TYPE_F16;
  if (name == "q8_0") return GGML_TYPE_Q8_0;
  fail(ErrorCode::invalid_argument, "kv_type '", name, "' is none of f32, f16, q8_0");
}

KvCache::State::State(std::shared_ptr<const void> owner_, const Decoder& decoder_,
                      std::shared_ptr<Executor> executor_, ggml_type type_, int64_t capacity_)
    : owner(std::move(owner_)),
      decoder(decoder_),
      executor(std::move(executor_)),
      type(type_),
      capacity(capacity_),
      graphs(executor, decoder.max_nodes()),
      moves(executor, decoder.max_nodes(), 2) {
  const DecoderConfig& c = decoder.config();
  require(c.kv_width() % ggml_blck_size(type) == 0 && c.head_dim % ggml_blck_size(type) == 0,
          ErrorCode::unsupported, "heads of size ", c.head_dim, " can't be kept as ", ggml_type_name(type),
          "; use kv_type f16 or f32");
  const auto n_layers = static_cast<size_t>(c.n_layers);
  context.reset(ggml_init({2 * n_layers * ggml_tensor_overhead(), nullptr, true}));
  require(context != nullptr, ErrorCode::out_of_memory, "no memory for a KV cache");
  static_assert(kMoveBlock == kKvBlock);
  // Graphs read whole blocks of rows, and one row more takes what the last block of a move has too many of.
  const int64_t n_rows = round_up(capacity, kMoveBlock) + 1;
  for (size_t i = 0; i < n_layers; ++i) {
    tensors.k.push_back(ggml_new_tensor_2d(context.get(), type, c.kv_width(), n_rows));
    tensors.v.push_back(ggml_new_tensor_2d(context.get(), type, c.kv_width(), n_rows));
  }
  buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), executor->device().buffer_type()));
  require(buffer != nullptr, ErrorCode::out_of_memory, "not enough memory for a KV cache of ", capacity,
          " positions; use a smaller n_ctx or kv_type q8_0");
  // Rows that are masked out are still multiplied: they must hold numbers.
  ggml_backend_buffer_clear(buffer.get(), 0);
}

void KvCache::State::run(const Place& place, std::span<const float> input, std::span<const int32_t> wanted,
                         Hidden hidden, std::span<float> hidden_out, std::span<float> logits_out) {
  const int64_t n = static_cast<int64_t>(input.size()) / decoder.config().width;
  const int64_t whole = whole_rows();
  const int64_t n_kv = std::min(round_up(place.row + n, kKvBlock), whole);
  const auto n_rows = static_cast<int64_t>(wanted.size());
  require(n <= whole && (place.wraps || place.row + n <= whole), ErrorCode::internal, "rows ", place.row,
          " to ", place.row + n, " don't fit into a cache of ", whole);
  const std::lock_guard lock(executor->mutex());
  DecoderTensors& t = graphs.get({n, n_kv, n_rows, static_cast<int64_t>(hidden)}, [&](Graph& g) {
    return decoder.build(g, tensors, n, n_kv, n_rows, hidden);
  });
  positions.resize(static_cast<size_t>(n));
  cache_rows.resize(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    positions[static_cast<size_t>(i)] = static_cast<int32_t>(place.position + i);
    cache_rows[static_cast<size_t>(i)] = (place.row + i) % whole;
  }
  executor->set<float>(t.embeds, input);
  executor->set<int32_t>(t.positions, positions);
  executor->set<int64_t>(t.cache_rows, cache_rows);
  if (t.rows != nullptr) executor->set<int32_t>(t.rows, wanted);
  if (t.mask != nullptr) {
    const ggml_fp16_t seen = ggml_fp32_to_fp16(0.0F);
    const ggml_fp16_t hide = ggml_fp32_to_fp16(-std::numeric_limits<float>::infinity());
    mask.assign(static_cast<size_t>(n_kv * n), hide);
    for (int64_t i = 0; i < n; ++i) {
      ggml_fp16_t* row = mask.data() + i * n_kv;
      // At most two pieces: up to the end of the cache, and from its start.
      const int64_t end = place.row + i + 1;
      for (int64_t at = place.first_seen; at < end;) {
        const int64_t piece = std::min(end - at, whole - at % whole);
        std::fill_n(row + at % whole, piece, seen);
        at += piece;
      }
    }
    executor->set<ggml_fp16_t>(t.mask, mask);
  }
  graphs.run();
  if (t.hidden != nullptr) executor->get<float>(t.hidden, hidden_out);
  if (t.logits != nullptr) executor->get<float>(t.logits, logits_out);
}

void KvCache::State::move(int64_t first, int64_t count, int64_t target, int64_t turn_first, int64_t stretch) {
  if (count == 0 || (first == target && turn_first == 0 && stretch == 0)) return;
  const std::lock_guard lock(executor->mutex());
  const int64_t spare = whole_rows();
  MoveTensors& t =
      moves.get({kMoveBlock}, [&](Graph& g) { return decoder.build_move(g, tensors, kMoveBlock); });
  std::vector<int32_t> source(kMoveBlock);
  std::vector<int64_t> targets(kMoveBlock);
  std::vector<int32_t> turn(kMoveBlock);
  const int64_t blocks = (count + kMoveBlock - 1) / kMoveBlock;
  for (int64_t b = 0; b < blocks; ++b) {
    // Downwards the first block goes first, upwards the last one.
    const int64_t start = (target < first ? b : blocks - 1 - b) * kMoveBlock;
    for (int64_t i = 0; i < kMoveBlock; ++i) {
      const bool used = start + i < count;
      const auto at = static_cast<size_t>(i);
      source[at] = static_cast<int32_t>(used ? first + start + i : spare);
      targets[at] = used ? target + start + i : spare;
      turn[at] = static_cast<int32_t>(used ? turn_first + (start + i) * stretch : 0);
    }
    executor->set<int32_t>(t.source, source);
    executor->set<int64_t>(t.target, targets);
    executor->set<int32_t>(t.turn, turn);
    moves.run();
  }
}

void KvCache::State::copy_from(const State& other) {
  const std::lock_guard lock(executor->mutex());
  copy_tensors(*other.context, *context);
  length = other.length;
  written = other.written;
}

std::vector<float> KvCache::State::read(const ggml_tensor* tensor, int64_t first, int64_t count) const {
  require(first >= 0 && count >= 0 && first + count <= length, ErrorCode::invalid_argument, "rows ", first,
          " to ", first + count, " are not all in the cache of ", length);
  std::vector<uint8_t> raw(static_cast<size_t>(count) * tensor->nb[1]);
  const std::lock_guard lock(executor->mutex());
  ggml_backend_tensor_get(tensor, raw.data(), static_cast<size_t>(first) * tensor->nb[1], raw.size());
  std::vector<float> out(static_cast<size_t>(count * tensor->ne[0]));
  std::vector<float> scratch;
  if (count > 0)
    convert_elements(tensor->type, raw.data(), GGML_TYPE_F32, out.data(), count * tensor->ne[0], scratch);
  return out;
}

KvCache::KvCache(std::unique_ptr<State> state) : state_(std::move(state)) {}
KvCache::~KvCache() = default;

int64_t KvCache::length() const {
  return state_->length;
}
int64_t KvCache::capacity() const {
  return state_->capacity;
}
uint64_t KvCache::bytes() const {
  return ggml_backend_buffer_get_size(state_->buffer.get());
}

void KvCache::reset() {
  state_->length = 0;
  state_->written = 0;
}

void KvCache::truncate(int64_t length) {
  require(length >= 0 && length <= state_->length, ErrorCode::invalid_argument, "can't truncate ",
          state_->length, " rows to ", length);
  state_->length = length;
}

void KvCache::extend(int64_t length) {
  require(length >= state_->length && length <= state_->written, ErrorCode::invalid_argument, "can't extend ",
          state_->length, " rows to ", length, ", ", state_->written, " have been written");
  state_->length = length;
}

void KvCache::remove(int64_t first, int64_t count) {
  State& s = *state_;
  require(first >= 0 && count >= 0 && first <= s.length && count <= s.length - first,
          ErrorCode::invalid_argument, "can't remove rows ", first, " to ", first + count, " of ", s.length);
  s.move(first + count, s.length - first - count, first, -count);
  s.length -= count;
  s.written = s.length;
}

void KvCache::move(int64_t first, int64_t count, int64_t target) {
  State& s = *state_;
  require(
      first >= 0 && count >= 0 && target >= 0 && first + count <= s.written && target <= s.capacity - count,
      ErrorCode::invalid_argument, "can't move rows ", first, " to ", first + count, " to ", target, ": ",
      s.written, " are written, ", s.capacity, " is the capacity");
  s.move(first, count, target, target - first);
  s.written = std::max(s.written, target + count);
}

std::unique_ptr<KvCache> KvCache::clone() const {
  const State& s = *state_;
  auto copy = std::make_unique<State>(s.owner, s.decoder, s.executor, s.type, s.capacity);
  copy->copy_from(s);
  return std::unique_ptr<KvCache>(new KvCache(std::move(copy)));
}

std::vector<float> KvCache::keys(int64_t layer, int64_t first, int64_t count) const {
  require(layer >= 0 && layer < state_->decoder.config().n_layers, ErrorCode::invalid_argument,
          "there is no layer ", layer);
  return state_->read(state_->tensors.k[static_cast<size_t>(layer)], first, count);
}

std::vector<float> KvCache::values(int64_t layer, int64_t first, int64_t count) const {
  require(layer >= 0 && layer < state_->decoder.config().n_layers, ErrorCode::invalid_argument,
          "there is no layer ", layer);
  return state_->read(state_->tensors.v[static_cast<size_t>(layer)], first, count);
}

}  // namespace omni
