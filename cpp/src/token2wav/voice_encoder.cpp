// token2wav/voice_encoder.cpp - checking a recording, and the three ways it takes to a voice.
#include "omni/voice_encoder.h"

#include "omni/audio.h"
#include "omni/error.h"
#include "omni/log.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "token2wav/best_stretch.h"
#include "token2wav/campplus.h"
#include "token2wav/fbank.h"
#include "token2wav/prompt_mel.h"
#include "token2wav/resample.h"
#include "token2wav/s3_tokenizer.h"
#include "token2wav/voice_synthetic.h"

namespace omni {
namespace {

constexpr char kAdvice[] = "give 5 to 15 s of clean speech at 16000 samples a second or more";
constexpr int kMaxChannels = 64;
// Below -60 dB of full scale a recording is 32 steps of 16 bits high at most: noise.
constexpr float kSilence = 1e-3F;
// Float sound may exceed 1 a little; far above, the samples are 16-bit numbers that were not divided.
constexpr float kMaxPeak = 16.0F;
constexpr double kShortSeconds = 3.0;

void check_recording(std::span<const float> samples, int channels, int rate) {
  const ErrorCode code = ErrorCode::invalid_argument;
  require(rate >= kMinVoiceRate && rate <= kMaxVoiceRate, code, "a reference recording at ", rate,
          " samples a second can't be used, only ", kMinVoiceRate, " to ", kMaxVoiceRate, "; ", kAdvice);
  require(channels >= 1 && channels <= kMaxChannels, code, "a reference recording has 1 to ", kMaxChannels,
          " channels, not ", channels);
  require(!samples.empty(), code, "the reference recording is empty; ", kAdvice);
  require(samples.size() % static_cast<size_t>(channels) == 0, code, samples.size(), " samples are not ",
          channels, " equally long channels");
  const size_t frames = samples.size() / static_cast<size_t>(channels);
  const double seconds = static_cast<double>(frames) / rate;
  require(seconds >= kMinVoiceSeconds, code, "the reference recording is ", seconds,
          " s long, which is too short (", kMinVoiceSeconds, " s are the least); ", kAdvice);
  require_finite(samples);
  float peak = 0;
  for (const float v : samples) peak = std::max(peak, std::abs(v));
  require(peak <= kMaxPeak, code, "the reference recording reaches ", peak,
          "; samples are expected from -1 to 1 (divide 16-bit samples by 32768)");
  if (seconds < kShortSeconds) {
    log(LogLevel::warning, str("the reference recording is only ", seconds, " s long; ", kAdvice));
  }
}

std::vector<float> first_channel(std::span<const float> samples, size_t channels) {
  std::vector<float> out(samples.size() / channels);
  float peak = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = samples[i * channels];
    peak = std::max(peak, std::abs(out[i]));
  }
  require(peak >= kSilence, ErrorCode::invalid_argument, "the reference recording is silent",
          channels > 1 ? " in its first channel, which speech tokens and speaker vector are made of" : "",
          " (peak ", peak, "); ", kAdvice);
  return out;
}

// Where the voice is taken from in a longer recording than can be used. Its cost grows with its length.
std::span<const float> usable(std::span<const float> samples, size_t channels, int rate) {
  constexpr double kGoodSeconds = 15.0;
  const auto seconds = [=](size_t n) { return static_cast<double>(n) / rate; };
  const size_t n = samples.size() / channels;
  if (seconds(n) <= kMaxVoiceSeconds) return samples;
  const Stretch best = best_stretch(first_channel(samples, channels), rate, kGoodSeconds);
  log(LogLevel::warning,
      str("the reference recording is ", seconds(n), " s long; the voice is taken from ", seconds(best.n),
          " s of it, from ", seconds(best.first), " s on, where there is least silence; ", kAdvice));
  return samples.subspan(best.first * channels, best.n * channels);
}

std::vector<float> mean_of_channels(std::span<const float> samples, size_t channels) {
  std::vector<float> out(samples.size() / channels);
  for (size_t i = 0; i < out.size(); ++i) {
    float sum = 0;
    for (const float v : samples.subspan(i * channels, channels)) sum += v;
    out[i] = sum / static_cast<float>(channels);
  }
  return out;
}

// [frames, bins] to [bins, frames].
std::vector<float> transposed(const Mel& mel) {
  const auto bins = static_cast<size_t>(mel.bins);
  const auto frames = static_cast<size_t>(mel.frames);
  std::vector<float> out(mel.data.size());
  for (size_t t = 0; t < frames; ++t) {
    for (size_t b = 0; b < bins; ++b) out[t * bins + b] = mel.data[b * frames + t];
  }
  return out;
}

// Two frames for each token: the last one is repeated, or what is too much is cut off.
void fit_mel(Voice& voice) {
  const auto width = static_cast<size_t>(Voice::kMelBins);
  const auto wanted = static_cast<size_t>(voice.frames()) * width;
  if (voice.mel.size() >= wanted) voice.mel.resize(wanted);
  voice.mel.reserve(wanted);
  while (voice.mel.size() < wanted) voice.mel.push_back(voice.mel[voice.mel.size() - width]);
}

}  // namespace

struct VoiceEncoder::Impl {
  Impl(const std::shared_ptr<const GgufFile>& tokenizer_file,
       const std::shared_ptr<const GgufFile>& speaker_file, const VoiceEncoderOptions& options)
      : divisor(options.whole_tail_block ? TailDivisor::whole_block : TailDivisor::own_length),
        device(std::make_shared<Device>(options.device)),
        tokenizer(tokenizer_file, device, {parse_weight_format(options.weight_format), options.repack}),
        speaker(speaker_file, device),
        log_mel(mel_filter_bank(static_cast<int>(tokenizer.mel_bins()))) {
    require(speaker.width() == Voice::kEmbeddingSize, ErrorCode::format,
            "the speaker encoder makes vectors of ", speaker.width(), " numbers, token2wav takes ",
            Voice::kEmbeddingSize);
  }

  TailDivisor divisor;
  std::shared_ptr<Device> device;
  S3Tokenizer tokenizer;
  SpeakerEncoder speaker;
  LogMel log_mel;
  std::mutex mutex;  // the device computes one graph at a time
};

VoiceEncoder::VoiceEncoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
VoiceEncoder::~VoiceEncoder() = default;

std::shared_ptr<VoiceEncoder> VoiceEncoder::open(const std::string& tokenizer_path,
                                                 const std::string& speaker_path,
                                                 const VoiceEncoderOptions& options) {
  return std::shared_ptr<VoiceEncoder>(
      new VoiceEncoder(std::make_unique<Impl>(std::make_shared<const GgufFile>(tokenizer_path),
                                              std::make_shared<const GgufFile>(speaker_path), options)));
}

std::shared_ptr<VoiceEncoder> VoiceEncoder::synthetic(const VoiceEncoderOptions& options) {
  return std::shared_ptr<VoiceEncoder>(new VoiceEncoder(
      std::make_unique<Impl>(synthetic_speech_tokenizer(), synthetic_speaker_encoder(), options)));
}

Voice VoiceEncoder::encode(std::span<const float> recording, int channels, int rate, VoiceStages* stages) {
  check_recording(recording, channels, rate);
  const auto n_channels = static_cast<size_t>(channels);
  const std::span<const float> samples = usable(recording, n_channels, rate);
  VoiceStages local;
  VoiceStages& s = stages != nullptr ? *stages : local;
  Voice voice;

  const std::vector<float> wave16k = sinc_resample(first_channel(samples, n_channels), rate, kAudioRate);
  s.token_mel = transposed(impl_->log_mel.reflected(wave16k));
  s.features = centred_fbank(wave16k);
  {
    // Recordings differ in length and voices are rare, so graphs and their memory are made for one use.
    const std::lock_guard lock(impl_->mutex);
    Executor executor(impl_->device);
    s.codes = impl_->tokenizer.codes(executor, s.token_mel);
    voice.embedding = impl_->speaker.embed(executor, s.features, impl_->divisor);
  }
  voice.tokens = s3_tokens(s.codes);

  s.wave24k = sinc_resample(mean_of_channels(samples, n_channels), rate, kPromptRate);
  voice.mel = prompt_mel(s.wave24k);
  fit_mel(voice);
  voice.check();
  return voice;
}

}  // namespace omni
