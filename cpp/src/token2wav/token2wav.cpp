// token2wav/token2wav.cpp - the public class: files, voices, and the windows that streams are cut into.
#include "omni/token2wav.h"

#include "omni/error.h"
#include "omni/log.h"

#include <algorithm>
#include <filesystem>

#include "token2wav/flow.h"
#include "token2wav/synthetic.h"
#include "token2wav/vocoder.h"

namespace omni {
namespace {

constexpr int32_t kSilence = 4218;
// The fewest tokens that flush() makes a window of: five new ones.
constexpr int64_t kLeastFlushed = 8;

std::filesystem::path path_of(const std::string& utf8) {
  return {std::u8string(utf8.begin(), utf8.end())};
}

std::string text_of(const std::filesystem::path& path) {
  const std::u8string s = path.u8string();
  return {s.begin(), s.end()};
}

// The folder with the networks: the directory itself, or one in it.
std::filesystem::path find_folder(const std::string& directory) {
  const std::filesystem::path given = path_of(directory);
  std::error_code error;
  for (const auto& folder : {given, given / "token2wav-gguf", given / "token2wav"}) {
    if (std::filesystem::is_regular_file(folder / "flow_matching.gguf", error)) return folder;
  }
  fail(ErrorCode::file, directory,
       ": holds no token2wav networks (flow_matching.gguf, here or in token2wav-gguf/)");
}

std::shared_ptr<const GgufFile> file_in(const std::filesystem::path& folder, const char* name) {
  return std::make_shared<const GgufFile>(text_of(folder / name));
}

std::shared_ptr<const GgufFile> file_if_there(const std::filesystem::path& folder, const char* name) {
  std::error_code error;
  return std::filesystem::is_regular_file(folder / name, error) ? file_in(folder, name) : nullptr;
}

struct Files {
  FlowFiles flow;
  std::vector<std::shared_ptr<const GgufFile>> vocoders;
};

}  // namespace

struct Token2Wav::Impl {
  Impl(const Files& files, const Token2WavOptions& options)
      : executor(std::make_shared<Executor>(std::make_shared<Device>(options.device))) {
    const WeightFormat format = parse_weight_format(options.weight_format);
    flow = std::make_shared<Flow>(files.flow, executor, LinearPolicy{format, true, true});
    const WeightFormat vocoder_format = format == WeightFormat::q8_0 ? WeightFormat::stored : format;
    for (const auto& file : files.vocoders) {
      auto vocoder = std::make_shared<Vocoder>(file, executor, LinearPolicy{vocoder_format, true, true});
      (vocoder->config().causal ? causal : original) = std::move(vocoder);
    }
    require(causal != nullptr || original != nullptr, ErrorCode::file,
            "there is no vocoder; hifigan2.gguf or causal_vocoder.gguf must lie beside flow_matching.gguf");
    const std::string& wanted = options.vocoder;
    require(wanted == "auto" || wanted == "causal" || wanted == "original", ErrorCode::invalid_argument,
            "vocoder '", wanted, "' is none of auto, causal, original");
    streaming = wanted == "original" || (wanted == "auto" && causal == nullptr) ? original : causal;
    require(streaming != nullptr, ErrorCode::file, "the model has no ", wanted, " vocoder");
    whole = original != nullptr ? original : causal;
    info.n_tokens = flow->encoder_config().n_vocab;
    info.look_ahead = flow->encoder_config().look_ahead;
    info.has_causal = causal != nullptr;
    info.has_original = original != nullptr;
    info.copied_bytes = flow->copied_bytes();
    const std::vector<ggml_tensor*> matrices = flow->dit().matrices();
    info.matrix_type = total(std::vector<const ggml_tensor*>(matrices.begin(), matrices.end())).type;
    const auto count = [&](const GgufFile& file) {
      for (const GgufTensor& t : file.tensors()) info.parameters += static_cast<uint64_t>(t.elements());
    };
    count(*files.flow.encoder);
    count(*files.flow.estimator);
    count(*files.flow.extra);
    for (const auto& vocoder : {causal, original}) {
      if (vocoder == nullptr) continue;
      count(vocoder->net().weights().file());
      info.copied_bytes += vocoder->net().weights().copied_bytes();
    }
  }

  std::shared_ptr<FlowNoise> noise_of(const Token2WavStreamOptions& options) const {
    if (options.noise.empty()) return nullptr;
    return std::make_shared<FlowNoise>(flow->dit_config().n_mels, options.noise);
  }

  std::vector<float> synthesize(std::span<const int32_t> tokens, const Voice& voice,
                                const Token2WavStreamOptions& options, StageValues* stages) const {
    const std::vector<float> mel = flow->whole(voice, tokens, options.steps, noise_of(options), stages);
    std::vector<float> wave = whole->whole(mel, {options.seed, options.excitation}, stages);
    if (stages != nullptr) (*stages)["flow_mel"] = mel;
    return wave;
  }

  std::shared_ptr<Executor> executor;
  std::shared_ptr<Flow> flow;
  std::shared_ptr<Vocoder> causal, original, streaming, whole;
  Token2WavInfo info;
};

struct Token2WavStream::State {
  State(std::shared_ptr<Token2Wav> owner, std::shared_ptr<Flow> networks,
        std::shared_ptr<const FlowPrompt> voice, std::unique_ptr<VocoderStream> sound, bool with_silence)
      : model(std::move(owner)),
        flow(std::move(networks)),
        prompt(std::move(voice)),
        mel(flow, prompt),
        vocoder(std::move(sound)),
        silence(with_silence) {
    fill();
  }

  // What a turn starts with.
  void fill() { buffer.assign(silence ? 3 : 0, kSilence); }

  void reset() {
    mel.reset();
    vocoder->reset();
    fresh = true;
    fill();
  }

  void run(std::span<const int32_t> tokens, bool last, std::vector<float>& wave) {
    if (tokens.empty()) {
      result.mel.clear();
      result.mu.clear();
    } else {
      mel.push(tokens, last, result);
    }
    fresh = false;
    vocoder->push(result.mel, last, wave);
    if (last) reset();
  }

  // Takes the first `n` tokens of the buffer as a window; all but the look-ahead are done with then.
  void take(int64_t n, std::vector<float>& wave) {
    run(std::span(buffer).first(static_cast<size_t>(n)), false, wave);
    buffer.erase(buffer.begin(), buffer.begin() + (n - flow->encoder_config().look_ahead));
  }

  std::shared_ptr<Token2Wav> model;  // keeps the weights alive
  std::shared_ptr<Flow> flow;
  std::shared_ptr<const FlowPrompt> prompt;
  FlowStream mel;
  std::unique_ptr<VocoderStream> vocoder;
  bool silence;
  bool fresh = true;  // nothing of this turn was computed yet
  std::vector<int32_t> buffer;
  FlowStream::Result result;
};

Token2WavStream::Token2WavStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
Token2WavStream::~Token2WavStream() = default;
Token2WavStream::Token2WavStream(Token2WavStream&&) noexcept = default;

void Token2WavStream::push(std::span<const int32_t> tokens, bool last, std::vector<float>& wave) {
  State& s = *state_;
  s.flow->check_ids(tokens);
  s.buffer.insert(s.buffer.end(), tokens.begin(), tokens.end());
  while (buffered() >= kWindow) s.take(kWindow, wave);
  if (!last) return;
  // A turn in which nothing was said is silent.
  const bool nothing = s.fresh && buffered() == (s.silence ? 3 : 0);
  if (nothing) {
    s.reset();
    return;
  }
  const std::vector<int32_t> rest = s.buffer;
  s.run(rest, true, wave);
}

void Token2WavStream::flush(std::vector<float>& wave) {
  State& s = *state_;
  while (buffered() >= kLeastFlushed) s.take(std::min(buffered(), kWindow), wave);
}

void Token2WavStream::window(std::span<const int32_t> tokens, bool last, std::vector<float>& wave) {
  state_->run(tokens, last, wave);
}

void Token2WavStream::reset() {
  state_->reset();
}
std::unique_ptr<Token2WavStream> Token2WavStream::clone() const {
  const State& s = *state_;
  auto copy = std::make_unique<State>(s.model, s.flow, s.prompt, s.vocoder->clone(), s.silence);
  copy->mel.copy_from(s.mel);
  copy->fresh = s.fresh;
  copy->buffer = s.buffer;
  return std::unique_ptr<Token2WavStream>(new Token2WavStream(std::move(copy)));
}

int64_t Token2WavStream::buffered() const {
  return static_cast<int64_t>(state_->buffer.size());
}
const std::vector<float>& Token2WavStream::last_mu() const {
  return state_->result.mu;
}
const std::vector<float>& Token2WavStream::last_mel() const {
  return state_->result.mel;
}
std::pair<int64_t, int64_t> Token2WavStream::cache_frames() const {
  return {state_->mel.dit_frames(), state_->mel.encoder_frames()};
}

Token2Wav::Token2Wav(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Token2Wav::~Token2Wav() = default;

std::shared_ptr<Token2Wav> Token2Wav::open(const std::string& directory, const Token2WavOptions& options) {
  const std::filesystem::path folder = find_folder(directory);
  Files files;
  files.flow = {file_in(folder, "encoder.gguf"), file_in(folder, "flow_matching.gguf"),
                file_in(folder, "flow_extra.gguf")};
  for (const char* name : {"hifigan2.gguf", "causal_vocoder.gguf"}) {
    if (auto file = file_if_there(folder, name)) files.vocoders.push_back(std::move(file));
  }
  auto impl = std::make_unique<Impl>(files, options);
  log(LogLevel::info,
      str(text_of(folder), ": token2wav, ", impl->info.parameters / 1000000, " M parameters, ",
          impl->streaming->config().causal ? "causal" : "original", " vocoder for streams"));
  return std::shared_ptr<Token2Wav>(new Token2Wav(std::move(impl)));
}

std::shared_ptr<Token2Wav> Token2Wav::synthetic(const SyntheticToken2Wav& sizes,
                                                const Token2WavOptions& options) {
  const Files files{synthetic_flow(sizes), {synthetic_vocoder(sizes, false), synthetic_vocoder(sizes, true)}};
  return std::shared_ptr<Token2Wav>(new Token2Wav(std::make_unique<Impl>(files, options)));
}

const Token2WavInfo& Token2Wav::info() const {
  return impl_->info;
}

std::unique_ptr<Token2WavStream> Token2Wav::stream(const Voice& voice,
                                                   const Token2WavStreamOptions& options) {
  const FlowRules rules = impl_->streaming->config().causal ? FlowRules::causal : FlowRules::original;
  auto prompt = impl_->flow->prompt(voice, options.steps, rules, impl_->noise_of(options));
  auto sound = impl_->streaming->stream({options.seed, options.excitation});
  return std::unique_ptr<Token2WavStream>(new Token2WavStream(std::make_unique<Token2WavStream::State>(
      shared_from_this(), impl_->flow, std::move(prompt), std::move(sound), options.silence)));
}

std::vector<float> Token2Wav::synthesize(std::span<const int32_t> tokens, const Voice& voice,
                                         const Token2WavStreamOptions& options) {
  return impl_->synthesize(tokens, voice, options, nullptr);
}

std::vector<float> Token2Wav::synthesize(std::span<const int32_t> tokens, const Voice& voice,
                                         const Token2WavStreamOptions& options,
                                         std::map<std::string, std::vector<float>>& stages) {
  return impl_->synthesize(tokens, voice, options, &stages);
}

Token2WavCost Token2Wav::flow_cost(int steps, int64_t past) const {
  return impl_->flow->cost(steps, Token2WavStream::kWindow - impl_->info.look_ahead, past);
}
Token2WavCost Token2Wav::vocoder_cost(int64_t frames) const {
  return impl_->streaming->net().cost(frames);
}

std::vector<float> Token2Wav::vocode(std::span<const float> mel, bool for_streams, bool excitation,
                                     uint64_t seed) {
  const Vocoder& any = *impl_->whole;
  const auto bins = static_cast<size_t>(any.config().n_mels);
  require(!mel.empty() && mel.size() % bins == 0, ErrorCode::invalid_argument, "a mel is [", bins,
          ", frames] with at least one frame");
  Vocoder& vocoder = for_streams ? *impl_->streaming : *impl_->whole;
  return vocoder.whole(mel, {seed, excitation}, nullptr);
}

}  // namespace omni
