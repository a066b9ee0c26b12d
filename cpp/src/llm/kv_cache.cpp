// llm/kv_cache.cpp - rows of keys and values: allocation, removal, moving, copies.
#include "llm/kv_cache.h"

#include "omni/error.h"

#include <algorithm>

namespace omni {
namespace {

constexpr int64_t kMoveBlock = 256;  // rows that one run of the move graph takes

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

KvCache::State::State(std::shared_ptr<const LanguageModel> model_, const Decoder& decoder_,
                      std::shared_ptr<Executor> executor_, ggml_type type_, int64_t capacity_)
    : model(std::move(model_)),
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

void KvCache::State::move(int64_t first, int64_t count, int64_t target) {
  if (count == 0 || first == target) return;
  const std::lock_guard lock(executor->mutex());
  const int64_t spare = tensors.k.front()->ne[1] - 1;
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
      turn[at] = static_cast<int32_t>(used ? target - first : 0);
    }
    executor->set<int32_t>(t.source, source);
    executor->set<int64_t>(t.target, targets);
    executor->set<int32_t>(t.turn, turn);
    moves.run();
  }
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
  s.move(first + count, s.length - first - count, first);
  s.length -= count;
  s.written = s.length;
}

void KvCache::move(int64_t first, int64_t count, int64_t target) {
  State& s = *state_;
  require(
      first >= 0 && count >= 0 && target >= 0 && first + count <= s.written && target <= s.capacity - count,
      ErrorCode::invalid_argument, "can't move rows ", first, " to ", first + count, " to ", target, ": ",
      s.written, " are written, ", s.capacity, " is the capacity");
  s.move(first, count, target);
  s.written = std::max(s.written, target + count);
}

std::unique_ptr<KvCache> KvCache::clone() const {
  const State& s = *state_;
  auto copy = std::make_unique<State>(s.model, s.decoder, s.executor, s.type, s.capacity);
  const std::lock_guard lock(s.executor->mutex());
  for (size_t i = 0; i < s.tensors.k.size(); ++i) {
    ggml_backend_tensor_copy(s.tensors.k[i], copy->tensors.k[i]);
    ggml_backend_tensor_copy(s.tensors.v[i], copy->tensors.v[i]);
  }
  copy->length = s.length;
  copy->written = s.written;
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
