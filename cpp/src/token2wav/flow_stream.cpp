// token2wav/flow_stream.cpp - the flow chunk by chunk, with the reference's rules for what caches keep.
#include "omni/error.h"

#include <algorithm>
#include <limits>

#include "token2wav/flow.h"

namespace omni {
namespace {

constexpr size_t kGraphs = 6;  // shapes that alternate in one stream: first, middle and last chunks

int64_t dit_capacity(const FlowPrompt& prompt) {
  return prompt.frames + Flow::kHistory + FlowEncoderConfig::kUp * FlowStream::kMaxTokens;
}

}  // namespace

FlowStream::FlowStream(std::shared_ptr<Flow> flow, std::shared_ptr<const FlowPrompt> prompt)
    : flow_(std::move(flow)),
      prompt_(std::move(prompt)),
      encoder_(flow_->encoder_config(), flow_->device(), dit_capacity(*prompt_) / FlowEncoderConfig::kUp),
      dit_(flow_->dit_config(), flow_->dit_.cache_form(), flow_->device(), prompt_->schedule->steps,
           dit_capacity(*prompt_)),
      encoder_graphs_(flow_->executor_, flow_->encoder_.max_nodes(), kGraphs),
      dit_graphs_(flow_->executor_, flow_->dit_.max_nodes(prompt_->schedule->steps), kGraphs),
      gather_graphs_(flow_->executor_, 16, kGraphs) {
  reset();
}

void FlowStream::reset() {
  Executor& executor = *flow_->executor_;
  const std::lock_guard lock(executor.mutex());
  Graph g(64);
  ggml_context* ctx = g.ctx();
  // The stream's caches are longer than the prompt's; each layer's first rows are the prompt.
  const auto copy = [&](ggml_tensor* from, ggml_tensor* to) {
    g.effect(ggml_cpy(ctx, from,
                      ggml_view_4d(ctx, to, from->ne[0], from->ne[1], from->ne[2], from->ne[3], to->nb[1],
                                   to->nb[2], to->nb[3], 0)));
  };
  const FlowEncoderCache& e = prompt_->encoder;
  copy(e.head, encoder_.head);
  copy(e.up, encoder_.up);
  copy(e.k, encoder_.k);
  copy(e.v, encoder_.v);
  copy(e.up_k, encoder_.up_k);
  copy(e.up_v, encoder_.up_v);
  copy(prompt_->dit.k, dit_.k);
  copy(prompt_->dit.v, dit_.v);
  copy(prompt_->dit.conv_a, dit_.conv_a);
  copy(prompt_->dit.conv_b, dit_.conv_b);
  executor.place(g);
  executor.compute(g);
  encoder_.length = e.length;
  order_.resize(static_cast<size_t>(prompt_->frames));
  for (size_t i = 0; i < order_.size(); ++i) order_[i] = static_cast<int32_t>(i);
  used_.assign(static_cast<size_t>(dit_.shape.rows), 0);
  std::fill_n(used_.begin(), order_.size(), uint8_t{1});
}

void FlowStream::copy_from(const FlowStream& other) {
  require(prompt_ == other.prompt_, ErrorCode::internal, "streams of different voices can't be copied");
  const std::lock_guard lock(flow_->executor_->mutex());
  copy_tensors(*other.encoder_.context, *encoder_.context);
  copy_tensors(*other.dit_.context, *dit_.context);
  encoder_.length = other.encoder_.length;
  order_ = other.order_;
  used_ = other.used_;
}

void FlowStream::push(std::span<const int32_t> ids, bool last, Result& result) {
  flow_->check_ids(ids);
  const auto n = static_cast<int64_t>(ids.size());
  const int64_t look_ahead = flow_->encoder_config().look_ahead;
  const int64_t least = last ? 1 : look_ahead + 2;
  const int64_t most = last ? kMaxTokens : kMaxTokens + look_ahead;
  require(n >= least && n <= most, ErrorCode::invalid_argument, "a ", last ? "last" : "middle", " chunk has ",
          least, " to ", most, " speech tokens, not ", n);
  const std::lock_guard lock(flow_->executor_->mutex());
  encode(ids, last, result.mu);
  solve(result.mu, result.mel);
  trim_dit();
  trim_encoder();
}

void FlowStream::encode(std::span<const int32_t> ids, bool last, std::vector<float>& mu) {
  const FlowEncoder& encoder = flow_->encoder_;
  const Executor& executor = *flow_->executor_;
  const auto n = static_cast<int64_t>(ids.size());
  const FlowEncoderTensors& io = encoder_graphs_.get({n, last ? 1 : 0, encoder_.length, 0}, [&](Graph& g) {
    return encoder.build(g, &encoder_, n, last, encoder_.length, false);
  });
  encoder.set_inputs(executor, io, ids);
  encoder_graphs_.run();
  mu.resize(static_cast<size_t>(ggml_nelements(io.mu)));
  executor.get<float>(io.mu, mu);
  encoder_.length += io.mu->ne[1] / FlowEncoderConfig::kUp;
}

void FlowStream::solve(std::span<const float> mu, std::vector<float>& mel) {
  const Executor& executor = *flow_->executor_;
  const int64_t t = static_cast<int64_t>(mu.size()) / flow_->dit_config().n_mels;
  // New frames take the lowest free rows.
  slots_.clear();
  for (size_t i = 0; i < used_.size() && static_cast<int64_t>(slots_.size()) < t; ++i) {
    if (used_[i] == 0) slots_.push_back(static_cast<int64_t>(i));
  }
  for (const int64_t slot : slots_) used_[static_cast<size_t>(slot)] = 1;
  const auto last_used = std::find(used_.rbegin(), used_.rend(), uint8_t{1});
  const int64_t n_kv = used_.rend() - last_used;
  const bool masked = n_kv != dit_frames() + t;
  const DitTensors& io = dit_graphs_.get({t, n_kv, masked ? 1 : 0, 0}, [&](Graph& g) {
    return flow_->dit_.build(g, *prompt_->schedule, &dit_, t, n_kv, masked, false);
  });
  flow_->fill_condition(mu, prompt_->speaker, {}, condition_);
  executor.set<float>(io.noise, prompt_->noise->frames(dit_frames(), t));
  executor.set<float>(io.condition, condition_);
  executor.set<int64_t>(io.slots, slots_);
  if (masked) {
    mask_.resize(static_cast<size_t>(ggml_nelements(io.mask)));
    for (size_t i = 0; i < mask_.size(); ++i) {
      const bool holds = used_[i % static_cast<size_t>(n_kv)] != 0;
      mask_[i] = holds ? 0.0F : -std::numeric_limits<float>::infinity();
    }
    executor.set<float>(io.mask, mask_);
  }
  dit_graphs_.run();
  mel.resize(mu.size());
  executor.get<float>(io.mel, mel);
  order_.insert(order_.begin(), slots_.begin(), slots_.end());
}

// The reference joins new frames in front of the old ones, then keeps the first `frames of the prompt` and
// the last 100: the newest speech and the prompt's end. The prompt's beginning is what gets lost.
void FlowStream::trim_dit() {
  if (dit_frames() <= prompt_->frames + Flow::kHistory) return;
  const auto first = order_.begin() + prompt_->frames;
  const auto end = order_.end() - Flow::kHistory;
  for (auto it = first; it != end; ++it) used_[static_cast<size_t>(*it)] = 0;
  order_.erase(first, end);
}

std::vector<int32_t> FlowStream::kept_rows(int64_t length, int64_t prompt, int64_t history,
                                           bool frozen) const {
  std::vector<int32_t> rows;
  if (!frozen) {
    for (int64_t i = 0; i < prompt; ++i) rows.push_back(static_cast<int32_t>(i));
    for (int64_t i = length - history; i < length; ++i) rows.push_back(static_cast<int32_t>(i));
    return rows;
  }
  // The first generation stores token-rate rows twice in a row, trims that as if it were mel-rate, and reads
  // the first half of the result.
  for (int64_t i = 0; i < prompt + history; ++i) {
    const int64_t at = i < 2 * prompt ? i : 2 * length - 2 * history + (i - 2 * prompt);
    rows.push_back(static_cast<int32_t>(at % length));
  }
  return rows;
}

void FlowStream::trim_encoder() {
  constexpr int64_t kUp = FlowEncoderConfig::kUp;
  const int64_t prompt = prompt_->frames / kUp;
  const int64_t history = Flow::kHistory / kUp;
  if (encoder_.length <= prompt + history) return;
  const auto& config = flow_->encoder_config();
  const std::vector<int32_t> rows =
      kept_rows(encoder_.length, prompt, history, prompt_->rules == FlowRules::original);
  const std::vector<int32_t> up_rows = kept_rows(kUp * encoder_.length, kUp * prompt, kUp * history, false);
  const auto n = static_cast<int64_t>(rows.size());
  // Reads everything before it writes, so rows may move over each other.
  const Gather& io = gather_graphs_.get({n, 0, 0, 0}, [&](Graph& g) {
    ggml_context* ctx = g.ctx();
    Gather t;
    t.rows = g.input(GGML_TYPE_I32, {n, config.n_layers}, "rows");
    t.up_rows = g.input(GGML_TYPE_I32, {kUp * n, config.n_up_layers}, "rows");
    const auto move = [&](ggml_tensor* cache, ggml_tensor* from) {
      ggml_tensor* kept = ggml_get_rows(ctx, cache, from);
      g.effect(ggml_cpy(
          ctx, kept,
          ggml_view_3d(ctx, cache, cache->ne[0], kept->ne[1], cache->ne[2], cache->nb[1], cache->nb[2], 0)));
    };
    move(encoder_.k, t.rows);
    move(encoder_.v, t.rows);
    move(encoder_.up_k, t.up_rows);
    move(encoder_.up_v, t.up_rows);
    return t;
  });
  const auto set = [&](ggml_tensor* to, const std::vector<int32_t>& from) {
    std::vector<int32_t> all;
    for (int64_t i = 0; i < to->ne[1]; ++i) all.insert(all.end(), from.begin(), from.end());
    flow_->executor_->set<int32_t>(to, all);
  };
  set(io.rows, rows);
  set(io.up_rows, up_rows);
  gather_graphs_.run();
  encoder_.length = n;
}

}  // namespace omni
