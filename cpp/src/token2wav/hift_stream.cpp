// token2wav/hift_stream.cpp - running the vocoders: whole utterances, and streams of either generation.
#include "omni/error.h"

#include <algorithm>
#include <cmath>

#include "token2wav/vocoder.h"

namespace omni {
namespace {

constexpr auto kColumn = static_cast<size_t>(VocoderStft::kColumn);
constexpr auto kSamples = static_cast<size_t>(HiftConfig::kSamples);
constexpr size_t kGraphs = 6;

// Sample i of a signal that mirrors at both ends.
float mirrored(std::span<const float> signal, int64_t i) {
  const auto n = static_cast<int64_t>(signal.size());
  if (i < 0) i = -i;
  if (i >= n) i = 2 * (n - 1) - i;
  return signal[static_cast<size_t>(std::clamp<int64_t>(i, 0, n - 1))];
}

// Appends the spectrum columns to sound.
void synthesise(Istft& istft, std::span<const float> spectrum, std::vector<float>& wave) {
  for (size_t at = 0; at < spectrum.size(); at += kColumn) istft.push(spectrum.data() + at, wave);
}

// The pitch and the decoder of one utterance or stream, with graphs for the shapes that it meets.
class Runner {
 public:
  explicit Runner(std::shared_ptr<Vocoder> vocoder, const HiftCache* cache)
      : vocoder_(std::move(vocoder)),
        cache_(cache),
        f0_graphs_(vocoder_->executor(), 256, kGraphs),
        graphs_(vocoder_->executor(), HiftNet::max_nodes() + 64, kGraphs) {}

  // mel [n_mels, n + f0_ahead] -> pitch [n].
  void pitch(std::span<const float> mel, std::vector<float>& f0) {
    Executor& executor = *vocoder_->executor();
    const HiftConfig& c = vocoder_->config();
    const int64_t n = static_cast<int64_t>(mel.size()) / c.n_mels - c.f0_ahead;
    const F0Tensors& io =
        f0_graphs_.get({n, 0, 0, 0}, [&](Graph& g) { return vocoder_->net().build_f0(g, cache_, n); });
    executor.set<float>(io.mel, mel);
    f0_graphs_.run();
    f0.resize(static_cast<size_t>(n));
    executor.get<float>(io.f0, f0);
  }

  // mel [n_mels, n + ahead] and columns [18, 120 n + 15] -> spectrum [18, 120 n (+ 1)].
  void decode(std::span<const float> mel, std::span<const float> columns, bool first, bool with_stages,
              StageValues* stages, std::vector<float>& spectrum) {
    Executor& executor = *vocoder_->executor();
    const HiftConfig& c = vocoder_->config();
    const int64_t n = static_cast<int64_t>(mel.size()) / c.n_mels - c.ahead;
    const HiftTensors& io = graphs_.get({n, first ? 1 : 0, with_stages ? 1 : 0, 0}, [&](Graph& g) {
      return vocoder_->net().build(g, cache_, n, first, with_stages);
    });
    executor.set<float>(io.mel, mel);
    executor.set<float>(io.source, columns);
    graphs_.run();
    spectrum.resize(static_cast<size_t>(ggml_nelements(io.spectrum)));
    executor.get<float>(io.spectrum, spectrum);
    if (stages != nullptr) io.stages.read(executor, *stages);
  }

  Vocoder& vocoder() const { return *vocoder_; }
  const std::shared_ptr<Vocoder>& shared_vocoder() const { return vocoder_; }

 private:
  std::shared_ptr<Vocoder> vocoder_;
  const HiftCache* cache_;
  GraphCache<F0Tensors> f0_graphs_;
  GraphCache<HiftTensors> graphs_;
};

// Columns of an utterance's excitation, zeros beside them.
void analyse_whole(std::span<const float> source, std::vector<float>& columns) {
  const auto n = static_cast<int64_t>(source.size()) / VocoderStft::kHop + 1;
  constexpr int64_t kLeft = HiftConfig::kColumnMargin / 2;
  columns.assign(static_cast<size_t>(n - 1 + HiftConfig::kColumnMargin) * kColumn, 0.0F);
  const auto sample = [&](int64_t i) { return mirrored(source, i); };
  for (int64_t c = 0; c < n; ++c)
    analyse(sample, c, columns.data() + static_cast<size_t>(c + kLeft) * kColumn);
}

// What the original vocoder remembers between windows.
struct OriginalState {
  explicit OriginalState(Excitation excitation) : excitation_(excitation) {}

  Excitation excitation_;
  bool started_ = false;
  std::vector<float> mel_;          // frames of the window: the last ones of the window before come first
  std::vector<float> source_tail_;  // excitation and sound of these
  std::vector<float> wave_tail_;
};

// The original vocoder: overlapping windows, faded into each other.
class OriginalStream : public VocoderStream, private OriginalState {
 public:
  OriginalStream(std::shared_ptr<Vocoder> vocoder, Excitation excitation)
      : OriginalState(excitation), runner_(std::move(vocoder), nullptr) {}

  void reset() override {
    excitation_.reset();
    mel_.clear();
    source_tail_.clear();
    wave_tail_.clear();
    started_ = false;
  }

  void push(std::span<const float> mel, bool last, std::vector<float>& wave) override {
    const auto bins = static_cast<size_t>(runner_.vocoder().config().n_mels);
    mel_.insert(mel_.end(), mel.begin(), mel.end());
    const size_t frames = mel_.size() / bins;
    constexpr auto kTail = static_cast<size_t>(kDelay);
    // Until there is more than a fade's length, wait. What was kept from the last window does not count.
    if (!last && frames <= (started_ ? kTail : kTail - 1)) return;
    if (frames == 0) {
      reset();
      return;
    }
    {
      const std::lock_guard lock(runner_.vocoder().executor()->mutex());
      runner_.pitch(mel_, f0_);
      excitation_.whole(f0_, source_tail_.size(), source_);
      std::copy(source_tail_.begin(), source_tail_.end(), source_.begin());
      analyse_whole(source_, columns_);
      runner_.decode(mel_, columns_, true, false, nullptr, spectrum_);
    }
    window_.clear();
    istft_.reset();
    synthesise(istft_, spectrum_, window_);
    istft_.finish(static_cast<int64_t>(frames * kSamples), window_);
    fade();
    if (last) {
      wave.insert(wave.end(), window_.begin(), window_.end());
      reset();
      return;
    }
    const size_t tail = kTail * kSamples;
    if (!started_) wave.insert(wave.end(), tail, 0.0F);
    started_ = true;
    wave.insert(wave.end(), window_.begin(), window_.end() - static_cast<std::ptrdiff_t>(tail));
    mel_.erase(mel_.begin(), mel_.end() - static_cast<std::ptrdiff_t>(kTail * bins));
    source_tail_.assign(source_.end() - static_cast<std::ptrdiff_t>(tail), source_.end());
    wave_tail_.assign(window_.end() - static_cast<std::ptrdiff_t>(tail), window_.end());
  }

  std::unique_ptr<VocoderStream> clone() const override {
    auto copy = std::make_unique<OriginalStream>(runner_.shared_vocoder(), excitation_);
    static_cast<OriginalState&>(*copy) = static_cast<const OriginalState&>(*this);
    return copy;
  }

 private:
  // The reference fades with the halves of a Hamming window, whose sum is 1.08, not 1.
  void fade() {
    const size_t n = wave_tail_.size();
    for (size_t j = 0; j < n; ++j) {
      const auto hamming = [&](size_t i) {
        return 0.54 - 0.46 * std::cos(2.0 * 3.14159265358979323846 * static_cast<double>(i) /
                                      static_cast<double>(2 * n - 1));
      };
      window_[j] = static_cast<float>(window_[j] * hamming(j) + wave_tail_[j] * hamming(n + j));
    }
  }

  Runner runner_;
  Istft istft_;
  std::vector<float> f0_, source_, columns_, spectrum_, window_;
};

// What the causal vocoder remembers beside its layers' caches.
struct CausalState {
  explicit CausalState(Excitation excitation) : excitation_(excitation) {}

  Excitation excitation_;
  Istft istft_;
  std::vector<float> mel_;     // received frames from first_mel_ on
  std::vector<float> source_;  // excitation from sample first_source_ on
  std::vector<float> ready_;   // sound from frame emitted_ on
  int64_t first_mel_ = 0;
  int64_t first_source_ = 0;
  int64_t received_ = 0;  // frames so far: of mel, with excitation, with spectrum, given as sound
  int64_t voiced_ = 0;
  int64_t decoded_ = 0;
  int64_t emitted_ = 0;
  int64_t lead_ = 0;
};

// The causal vocoder: every layer goes on where it stopped.
class CausalStream : public VocoderStream, private CausalState {
 public:
  CausalStream(const std::shared_ptr<Vocoder>& vocoder, Excitation excitation)
      : CausalState(excitation), cache_(vocoder->net().make_cache()), runner_(vocoder, &cache_) {}

  void reset() override {
    cache_.clear();
    excitation_.reset();
    istft_.reset();
    mel_.clear();
    source_.clear();
    ready_.clear();
    first_source_ = 0;
    received_ = voiced_ = decoded_ = emitted_ = 0;
    lead_ = 0;
    first_mel_ = 0;
  }

  void push(std::span<const float> mel, bool last, std::vector<float>& wave) override {
    const HiftConfig& c = runner_.vocoder().config();
    mel_.insert(mel_.end(), mel.begin(), mel.end());
    received_ += static_cast<int64_t>(mel.size()) / c.n_mels;
    if (received_ == 0) return;
    // A stream of several calls starts with silence as long as its delay; a single call has none.
    if (!last && lead_ == 0) lead_ = kDelay;
    {
      const std::lock_guard lock(runner_.vocoder().executor()->mutex());
      advance_source(last);
      advance_decoder(last);
    }
    const int64_t frames = last ? received_ : std::max<int64_t>(received_ - kDelay, 0);
    if (frames > 0 && lead_ > 0 && emitted_ == 0)
      wave.insert(wave.end(), static_cast<size_t>(lead_) * kSamples, 0.0F);
    const auto n = static_cast<std::ptrdiff_t>((frames - emitted_) * HiftConfig::kSamples);
    wave.insert(wave.end(), ready_.begin(), ready_.begin() + n);
    ready_.erase(ready_.begin(), ready_.begin() + n);
    emitted_ = frames;
    if (last) reset();
  }

  std::unique_ptr<VocoderStream> clone() const override {
    auto copy = std::make_unique<CausalStream>(runner_.shared_vocoder(), excitation_);
    static_cast<CausalState&>(*copy) = static_cast<const CausalState&>(*this);
    const std::lock_guard lock(runner_.vocoder().executor()->mutex());
    copy_tensors(*cache_.context, *copy->cache_.context);
    return copy;
  }

 private:
  // Frames [first, first + n) of the received mel, zeros behind its end.
  std::span<const float> frames(int64_t first, int64_t n) {
    const auto bins = runner_.vocoder().config().n_mels;
    window_.assign(static_cast<size_t>(n * bins), 0.0F);
    const int64_t have = std::min(n, received_ - first);
    std::copy_n(mel_.begin() + (first - first_mel_) * bins, have * bins, window_.begin());
    return window_;
  }

  // Pitch and excitation, as far as the frames ahead allow.
  void advance_source(bool last) {
    const int64_t ahead = runner_.vocoder().config().f0_ahead;
    const int64_t to = last ? received_ : std::max<int64_t>(received_ - ahead, 0);
    if (to <= voiced_) return;
    runner_.pitch(frames(voiced_, to - voiced_ + ahead), f0_);
    excitation_.next(f0_, source_);
    voiced_ = to;
  }

  // The spectrum, one frame further than sound is given: a sample needs the columns on both sides.
  void advance_decoder(bool last) {
    const HiftConfig& c = runner_.vocoder().config();
    const int64_t to = last ? received_ : received_ - kDelay + 1;
    if (to <= decoded_ || (!last && received_ <= kDelay)) return;
    const int64_t n = to - decoded_;
    // Columns from the widest filter's reach before the frames to the frames' end.
    const int64_t first_column = HiftConfig::kColumns * decoded_ - (HiftConfig::kColumnMargin - 1);
    columns_.assign(static_cast<size_t>(HiftConfig::kColumns * n + HiftConfig::kColumnMargin) * kColumn,
                    0.0F);
    const int64_t end = HiftConfig::kSamples * voiced_;
    const auto sample = [&](int64_t i) {
      if (i < 0) i = -i;
      if (i >= end) i = 2 * (end - 1) - i;
      return source_[static_cast<size_t>(i - first_source_)];
    };
    for (int64_t k = 0; k < HiftConfig::kColumns * n + HiftConfig::kColumnMargin; ++k) {
      const int64_t column = first_column + k;
      if (column >= 0) analyse(sample, column, columns_.data() + static_cast<size_t>(k) * kColumn);
    }
    runner_.decode(frames(decoded_, n + c.ahead), columns_, decoded_ == 0, false, nullptr, spectrum_);
    synthesise(istft_, spectrum_, ready_);
    decoded_ = to;
    if (last) {
      istft_.finish(HiftConfig::kSamples * received_, ready_);
      return;
    }
    // What the next call still needs: one frame of excitation covers the filters' reach.
    const int64_t source_from = std::max<int64_t>(HiftConfig::kSamples * (decoded_ - 1), first_source_);
    source_.erase(source_.begin(), source_.begin() + (source_from - first_source_));
    first_source_ = source_from;
    const int64_t mel_from = std::min(decoded_, voiced_);
    mel_.erase(mel_.begin(), mel_.begin() + (mel_from - first_mel_) * c.n_mels);
    first_mel_ = mel_from;
  }

  HiftCache cache_;
  Runner runner_;
  std::vector<float> window_, f0_, columns_, spectrum_;
};

}  // namespace

Vocoder::Vocoder(std::shared_ptr<const GgufFile> file, std::shared_ptr<Executor> executor,
                 const LinearPolicy& policy)
    : executor_(std::move(executor)), net_(std::move(file), executor_->shared_device(), policy) {}

std::unique_ptr<VocoderStream> Vocoder::stream(const ExcitationOptions& options) {
  Excitation excitation(net_, options);
  if (config().causal) return std::make_unique<CausalStream>(shared_from_this(), excitation);
  return std::make_unique<OriginalStream>(shared_from_this(), excitation);
}

std::vector<float> Vocoder::whole(std::span<const float> mel, const ExcitationOptions& options,
                                  StageValues* stages) {
  std::vector<float> wave;
  const auto frames = static_cast<int64_t>(mel.size()) / config().n_mels;
  if (config().causal) {
    stream(options)->push(mel, true, wave);
    return wave;
  }
  std::vector<float> f0;
  std::vector<float> source;
  std::vector<float> columns;
  std::vector<float> spectrum;
  Runner runner(shared_from_this(), nullptr);
  Excitation excitation(net_, options);
  {
    const std::lock_guard lock(executor_->mutex());
    runner.pitch(mel, f0);
    excitation.whole(f0, 0, source);
    analyse_whole(source, columns);
    runner.decode(mel, columns, true, stages != nullptr, stages, spectrum);
  }
  Istft istft;
  synthesise(istft, spectrum, wave);
  istft.finish(HiftConfig::kSamples * frames, wave);
  if (stages != nullptr) {
    (*stages)["hift_f0"] = std::move(f0);
    (*stages)["hift_source"] = std::move(source);
  }
  return wave;
}

}  // namespace omni
