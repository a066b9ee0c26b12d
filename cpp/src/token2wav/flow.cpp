// token2wav/flow.cpp - prompts, and the flow over whole utterances.
#include "token2wav/flow.h"

#include "omni/error.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string_view>

namespace omni {
namespace {

// The token that the first generation puts behind the prompt: silence.
constexpr int32_t kSilence = 4218;
// Attention over a minute at once takes most of a gigabyte.
constexpr int64_t kMaxWhole = 25 * 60;
constexpr int64_t kMaxPrompt = 25 * 60;

uint64_t hash(uint64_t seed, const void* data, size_t size) {
  for (const unsigned char byte : std::string_view(static_cast<const char*>(data), size)) {
    seed = (seed ^ byte) * 0x100000001B3U;  // FNV-1a
  }
  return seed;
}

uint64_t key_of(const Voice& voice, int steps, FlowRules rules) {
  uint64_t key = 0xCBF29CE484222325U;
  key = hash(key, &steps, sizeof(steps));
  key = hash(key, &rules, sizeof(rules));
  key = hash(key, voice.tokens.data(), voice.tokens.size() * sizeof(int32_t));
  key = hash(key, voice.embedding.data(), voice.embedding.size() * sizeof(float));
  return hash(key, voice.mel.data(), voice.mel.size() * sizeof(float));
}

// 0 ... n - 1
std::vector<int64_t> first_slots(int64_t n) {
  std::vector<int64_t> slots(static_cast<size_t>(n));
  std::iota(slots.begin(), slots.end(), 0);
  return slots;
}

const float* f32_data(const GgufFile& file, const char* name, std::initializer_list<int64_t> ne) {
  const GgufTensor& t = file.tensor(name, ne);
  require(t.type == GGML_TYPE_F32, ErrorCode::format, file.path(), ": tensor '", name, "' is ",
          ggml_type_name(t.type), ", expected F32");
  return reinterpret_cast<const float*>(t.data);
}

}  // namespace

FlowNoise::FlowNoise(int64_t n_mels, std::vector<float> values)
    : n_mels_(n_mels), values_(std::move(values)) {
  require(!values_.empty() && values_.size() % static_cast<size_t>(n_mels) == 0, ErrorCode::invalid_argument,
          "flow noise must be [", n_mels, ", frames], got ", values_.size(), " values");
}

std::span<const float> FlowNoise::frames(int64_t first, int64_t n) {
  const auto end = static_cast<size_t>((first + n) * n_mels_);
  if (values_.size() < end) {
    require(random_.has_value(), ErrorCode::invalid_argument, "the given flow noise has ",
            static_cast<int64_t>(values_.size()) / n_mels_, " frames, ", first + n, " are needed");
    const size_t before = values_.size();
    values_.resize(end);
    for (size_t i = before; i < end; ++i) values_[i] = random_->normal();
  }
  return {values_.data() + first * n_mels_, static_cast<size_t>(n * n_mels_)};
}

Flow::Flow(const FlowFiles& files, std::shared_ptr<Executor> executor, const LinearPolicy& policy)
    : executor_(std::move(executor)),
      encoder_(files.encoder, files.extra, executor_->shared_device(), policy),
      dit_(files.estimator, executor_->shared_device(), policy),
      noise_(std::make_shared<FlowNoise>(dit_.config().n_mels)) {
  encoder_.make_tables(*executor_);
}

Token2WavCost Flow::cost(int steps, int64_t tokens, int64_t past) const {
  constexpr int64_t kUp = FlowEncoderConfig::kUp;
  const Token2WavCost encoder = encoder_.cost(tokens, past / kUp + tokens);
  const Token2WavCost dit = dit_.cost(steps, kUp * tokens, past + kUp * tokens);
  return {encoder.operations + dit.operations, encoder.bytes + dit.bytes};
}

void Flow::check_ids(std::span<const int32_t> ids) const {
  for (const int32_t id : ids) {
    require(id >= 0 && id < encoder_config().n_vocab, ErrorCode::invalid_argument, "speech token ", id,
            " is outside of 0 to ", encoder_config().n_vocab - 1, "; end tokens must not reach token2wav");
  }
}

std::shared_ptr<const DitSchedule> Flow::schedule(int steps) {
  for (const auto& s : schedules_) {
    if (s->steps == steps) return s;
  }
  schedules_.push_back(std::make_shared<const DitSchedule>(dit_.make_schedule(*executor_, steps)));
  return schedules_.back();
}

void Flow::fill_condition(std::span<const float> mu, std::span<const float> speaker,
                          std::span<const float> mel, std::vector<float>& out) const {
  const auto bins = static_cast<size_t>(dit_config().n_mels);
  const size_t frames = mu.size() / bins;
  out.assign(frames * 3 * bins * DitConfig::kBranches, 0.0F);
  for (size_t t = 0; t < frames; ++t) {
    float* row = out.data() + t * 3 * bins;
    std::copy_n(mu.data() + t * bins, bins, row);
    std::copy(speaker.begin(), speaker.end(), row + bins);
    if ((t + 1) * bins <= mel.size()) std::copy_n(mel.data() + t * bins, bins, row + 2 * bins);
  }
}

std::shared_ptr<const FlowPrompt> Flow::prompt(const Voice& voice, int steps, FlowRules rules,
                                               std::shared_ptr<FlowNoise> noise) {
  voice.check();
  const std::lock_guard lock(executor_->mutex());
  if (voice.cache != nullptr) {
    require(steps == voice.cache_steps, ErrorCode::invalid_argument, voice.cache->path(),
            ": this voice holds caches for ", voice.cache_steps, " flow steps and can't be used with ", steps,
            "; ask for ", voice.cache_steps, " steps, or make a voice from a recording");
    std::shared_ptr<FlowPrompt> p = load_prompt(voice);
    p->schedule = schedule(steps);
    p->noise = noise != nullptr ? std::move(noise) : noise_;
    p->rules = rules;
    return p;
  }
  check_ids(voice.tokens);
  if (noise != nullptr) return compute_prompt(voice, steps, rules, std::move(noise));
  const uint64_t key = key_of(voice, steps, rules);
  std::erase_if(kept_, [](const Kept& kept) { return kept.prompt.expired(); });
  for (const Kept& kept : kept_) {
    if (kept.key != key) continue;
    if (auto found = kept.prompt.lock()) return latest_ = std::move(found);
  }
  latest_.reset();
  latest_ = compute_prompt(voice, steps, rules, noise_);
  kept_.push_back({key, latest_});
  return latest_;
}

std::shared_ptr<FlowPrompt> Flow::compute_prompt(const Voice& voice, int steps, FlowRules rules,
                                                 std::shared_ptr<FlowNoise> noise) {
  const auto n = static_cast<int64_t>(voice.tokens.size());
  require(n <= kMaxPrompt, ErrorCode::invalid_argument, "the reference recording is ", n / 25,
          " s long; at most ", kMaxPrompt / 25, " s can be used, and 5 to 15 s are best");
  const auto look_ahead = static_cast<size_t>(encoder_config().look_ahead);
  require(static_cast<size_t>(n) >= look_ahead, ErrorCode::invalid_argument, "a voice needs at least ",
          look_ahead, " speech tokens, this one has ", n);
  const int64_t frames = voice.frames();
  const std::shared_ptr<const DitSchedule> times = schedule(steps);
  noise->frames(0, frames);  // a given table that is too short shows before anything is allocated
  auto p = std::make_shared<FlowPrompt>(encoder_config(), dit_, device(), steps, frames);
  p->schedule = times;
  p->noise = std::move(noise);
  p->rules = rules;
  p->speaker = encoder_.speaker(voice.embedding);

  std::vector<int32_t> ids = voice.tokens;
  for (size_t i = 0; i < look_ahead; ++i) {
    ids.push_back(rules == FlowRules::causal ? voice.tokens[i] : kSilence);
  }
  p->mu.resize(voice.mel.size());
  {
    Graph g(encoder_.max_nodes());
    const FlowEncoderTensors io =
        encoder_.build(g, &p->encoder, static_cast<int64_t>(ids.size()), false, 0, false);
    executor_->place(g);
    encoder_.set_inputs(*executor_, io, ids);
    executor_->compute(g);
    executor_->get<float>(io.mu, p->mu);
    p->encoder.length = n;
  }
  Graph g(dit_.max_nodes(steps));
  const DitTensors io = dit_.build(g, *p->schedule, &p->dit, frames, frames, false, false);
  executor_->place(g);
  std::vector<float> condition;
  fill_condition(p->mu, p->speaker, voice.mel, condition);
  executor_->set<float>(io.noise, p->noise->frames(0, frames));
  executor_->set<float>(io.condition, condition);
  executor_->set<int64_t>(io.slots, first_slots(frames));
  executor_->compute(g);
  return p;
}

std::shared_ptr<FlowPrompt> Flow::load_prompt(const Voice& voice) const {
  const GgufFile& file = *voice.cache;
  const FlowEncoderConfig& e = encoder_config();
  const DitConfig& d = dit_config();
  const int64_t frames = voice.frames();
  const int64_t places = voice.cache_steps * d.n_blocks;
  const int64_t layers = e.n_layers + e.n_up_layers;
  const float* head = f32_data(file, "prompt_cache.conformer_cnn_cache", {e.width, 6});
  const float* encoder =
      f32_data(file, "prompt_cache.conformer_att_cache", {2 * e.head_dim, frames, e.n_heads, layers});
  const float* conv = f32_data(file, "prompt_cache.estimator_cnn_cache",
                               {2 * d.width, DitConfig::kConvReach, places, DitConfig::kBranches});
  const float* attention = f32_data(file, "prompt_cache.estimator_att_cache",
                                    {2 * d.head_dim, frames, places * d.n_heads, DitConfig::kBranches});
  auto p = std::make_shared<FlowPrompt>(e, dit_, device(), voice.cache_steps, frames);
  p->speaker = encoder_.speaker(voice.embedding);
  p->encoder.length = frames / FlowEncoderConfig::kUp;

  // Keys and values of one row lie together for each head in the file, apart for each tensor here.
  std::vector<float> keys;
  std::vector<float> values;
  const auto split = [&](const float* from, int64_t head_dim, int64_t heads, int64_t stored, int64_t rows) {
    const int64_t width = heads * head_dim;
    keys.resize(static_cast<size_t>(rows * width));
    values.resize(keys.size());
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t t = 0; t < rows; ++t) {
        const float* row = from + (h * stored + t) * 2 * head_dim;
        std::copy_n(row, head_dim, keys.begin() + t * width + h * head_dim);
        std::copy_n(row + head_dim, head_dim, values.begin() + t * width + h * head_dim);
      }
    }
  };
  const auto put = [](ggml_tensor* to, const std::vector<float>& from, size_t offset) {
    ggml_backend_tensor_set(to, from.data(), offset, from.size() * sizeof(float));
  };
  for (int64_t i = 0; i < layers; ++i) {
    const bool up = i >= e.n_layers;
    const auto layer = static_cast<size_t>(up ? i - e.n_layers : i);
    split(encoder + i * e.n_heads * frames * 2 * e.head_dim, e.head_dim, e.n_heads, frames,
          up ? frames : frames / FlowEncoderConfig::kUp);
    ggml_tensor* k = up ? p->encoder.up_k : p->encoder.k;
    ggml_tensor* v = up ? p->encoder.up_v : p->encoder.v;
    put(k, keys, layer * k->nb[2]);
    put(v, values, layer * v->nb[2]);
  }
  ggml_backend_tensor_set(p->encoder.head, head, 0, ggml_nbytes(p->encoder.head));
  ggml_backend_tensor_set(p->encoder.up, head + ggml_nelements(p->encoder.head), 0,
                          ggml_nbytes(p->encoder.up));
  std::vector<float> past_a(static_cast<size_t>(DitConfig::kConvReach * d.width));
  std::vector<float> past_b(past_a.size());
  for (int64_t branch = 0; branch < DitConfig::kBranches; ++branch) {
    for (int64_t place = 0; place < places; ++place) {
      split(attention + (branch * places + place) * d.n_heads * frames * 2 * d.head_dim, d.head_dim,
            d.n_heads, frames, frames);
      p->dit.set_rows(static_cast<size_t>(place), branch, keys, values);
      // Rows hold the inputs of both convolutions side by side.
      const float* rows = conv + (branch * places + place) * DitConfig::kConvReach * 2 * d.width;
      for (int64_t row = 0; row < DitConfig::kConvReach; ++row) {
        std::copy_n(rows + row * 2 * d.width, d.width, past_a.begin() + row * d.width);
        std::copy_n(rows + (row * 2 + 1) * d.width, d.width, past_b.begin() + row * d.width);
      }
      p->dit.set_past(static_cast<size_t>(place), branch, past_a, past_b);
    }
  }
  return p;
}

std::vector<float> Flow::whole(const Voice& voice, std::span<const int32_t> tokens, int steps,
                               const std::shared_ptr<FlowNoise>& noise, StageValues* stages) {
  voice.check();
  require(voice.cache == nullptr, ErrorCode::unsupported,
          "a voice from a prompt cache can only be streamed: it holds no recording to run beside the tokens");
  check_ids(voice.tokens);
  check_ids(tokens);
  const auto n = static_cast<int64_t>(voice.tokens.size() + tokens.size());
  require(!tokens.empty() && n <= kMaxWhole, ErrorCode::invalid_argument, tokens.size(),
          " speech tokens and ", voice.tokens.size(), " of the reference can't be computed in one piece (",
          kMaxWhole, " together); stream them");
  const std::lock_guard lock(executor_->mutex());
  std::vector<int32_t> ids = voice.tokens;
  ids.insert(ids.end(), tokens.begin(), tokens.end());
  const auto frames = FlowEncoderConfig::kUp * static_cast<int64_t>(ids.size());
  const auto bins = static_cast<size_t>(dit_config().n_mels);
  const std::shared_ptr<const DitSchedule> times = schedule(steps);
  std::vector<float> mu(static_cast<size_t>(frames) * bins);
  {
    Graph g(encoder_.max_nodes());
    const FlowEncoderTensors io =
        encoder_.build(g, nullptr, static_cast<int64_t>(ids.size()), true, 0, stages != nullptr);
    executor_->place(g);
    encoder_.set_inputs(*executor_, io, ids);
    executor_->compute(g);
    executor_->get<float>(io.mu, mu);
    if (stages != nullptr) io.stages.read(*executor_, *stages);
  }
  Graph g(dit_.max_nodes(steps) + 64);
  const DitTensors io = dit_.build(g, *times, nullptr, frames, frames, false, stages != nullptr);
  executor_->place(g);
  const std::vector<float> speaker = encoder_.speaker(voice.embedding);
  std::vector<float> condition;
  fill_condition(mu, speaker, voice.mel, condition);
  FlowNoise& source = noise != nullptr ? *noise : *noise_;
  executor_->set<float>(io.noise, source.frames(0, frames));
  executor_->set<float>(io.condition, condition);
  if (io.slots != nullptr) executor_->set<int64_t>(io.slots, first_slots(frames));
  executor_->compute(g);
  std::vector<float> mel(2 * tokens.size() * bins);
  executor_->get<float>(io.mel, mel, static_cast<size_t>(voice.frames()) * bins);
  if (stages != nullptr) {
    io.stages.read(*executor_, *stages);
    (*stages)["flow_spk"] = speaker;
    (*stages)["flow_mu"] = std::move(mu);
    (*stages)["flow_t"] = times->times;
    (*stages)["flow_t_embed"] = times->embedding;
  }
  return mel;
}

}  // namespace omni
