// session/token_windows.cpp - which tokens of a spoken turn are rendered together.
#include "omni/duplex_networks.h"
#include "omni/error.h"

#include <algorithm>
#include <map>

namespace omni {
namespace {

constexpr int32_t kSilence = 4218;
constexpr size_t kSilentTokens = 3;
constexpr size_t kWindow = Token2WavStream::kWindow;
constexpr size_t kLeastFlushed = 8;  // the look-ahead and five new ones

}  // namespace

struct TokenWindows::Impl {
  Impl(std::shared_ptr<Token2Wav> model_, std::shared_ptr<const Voice> voice_,
       const DuplexSoundOptions& options_)
      : model(std::move(model_)),
        voice(std::move(voice_)),
        options(options_),
        look_ahead(static_cast<size_t>(model->info().look_ahead)) {
    options.stream.silence = false;
    for (const int other : options.other_steps) stream_of(other);
    steps = options.stream.steps;
    stream = &stream_of(steps);
    fill();
  }

  // A copy has the stream of its turn; others are prepared again when they are wanted.
  Impl(const Impl& other)
      : model(other.model),
        voice(other.voice),
        options(other.options),
        look_ahead(other.look_ahead),
        steps(other.steps),
        in_turn(other.in_turn),
        buffer(other.buffer) {
    for (const auto& [n, s] : other.streams) {
      if (s.get() == other.stream) stream = (streams[n] = s->clone()).get();
    }
  }
  Impl& operator=(const Impl&) = delete;

  Token2WavStream& stream_of(int wanted) {
    auto& slot = streams[wanted];
    try {
      Token2WavStreamOptions with = options.stream;
      with.steps = wanted;
      if (slot == nullptr) slot = model->stream(*voice, with);
    } catch (...) {
      streams.erase(wanted);
      throw;
    }
    return *slot;
  }

  void fill() { buffer.assign(kSilentTokens, kSilence); }

  void forget_turn() {
    stream->reset();
    fill();
    in_turn = false;
  }

  // Renders the first n tokens of the buffer; all but the look-ahead are done with then.
  void take(size_t n, std::vector<float>& wave) {
    stream->window(std::span(buffer).first(n), false, wave);
    buffer.erase(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(n - look_ahead));
  }

  std::shared_ptr<Token2Wav> model;
  std::shared_ptr<const Voice> voice;
  DuplexSoundOptions options;
  size_t look_ahead;
  std::map<int, std::unique_ptr<Token2WavStream>> streams;  // by steps
  Token2WavStream* stream = nullptr;
  int steps = 0;  // of the next turn
  bool in_turn = false;
  std::vector<int32_t> buffer;
};

TokenWindows::TokenWindows(std::shared_ptr<Token2Wav> model, std::shared_ptr<const Voice> voice,
                           const DuplexSoundOptions& options)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(voice), options)) {}
TokenWindows::TokenWindows(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TokenWindows::~TokenWindows() = default;

std::unique_ptr<TokenWindows> TokenWindows::clone() const {
  return std::unique_ptr<TokenWindows>(new TokenWindows(std::make_unique<Impl>(*impl_)));
}

void TokenWindows::render(std::span<const int32_t> tokens, bool starts_turn, bool end_of_turn,
                          std::vector<float>& wave) {
  Impl& s = *impl_;
  const int64_t n_tokens = s.model->info().n_tokens;
  for (const int32_t id : tokens) {
    require(id >= 0 && id < n_tokens, ErrorCode::invalid_argument, "speech token ", id,
            " is out of range: there are ", n_tokens);
  }
  wave.clear();
  if (!s.in_turn) s.stream = &s.stream_of(s.steps);
  s.in_turn = true;
  s.buffer.insert(s.buffer.end(), tokens.begin(), tokens.end());
  try {
    const size_t least = starts_turn || s.options.flush_every_unit ? kLeastFlushed : kWindow;
    while (s.buffer.size() >= least) s.take(std::min(s.buffer.size(), kWindow), wave);
    if (!end_of_turn) return;
    s.stream->window(s.buffer, true, wave);
    s.fill();
    s.in_turn = false;
  } catch (...) {
    s.forget_turn();
    throw;
  }
}

void TokenWindows::cancel() {
  if (impl_->in_turn) impl_->forget_turn();
}

bool TokenWindows::set_steps(int steps) {
  try {
    impl_->stream_of(steps);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::invalid_argument) throw;
    return false;
  }
  impl_->steps = steps;
  return true;
}

int TokenWindows::steps() const {
  return impl_->steps;
}
std::span<const int32_t> TokenWindows::buffered() const {
  return impl_->buffer;
}

}  // namespace omni
