// audio/audio_encoder.cpp - loading, and whole clips cut into pieces.
#include "omni/audio_encoder.h"

#include "omni/error.h"
#include "omni/log.h"

#include <algorithm>
#include <cmath>

#include "audio/audio_impl.h"
#include "audio/synthetic.h"

namespace omni {
namespace {

ggml_type parse_kv_type(const std::string& name) {
  if (name == "f32") return GGML_TYPE_F32;
  if (name == "f16") return GGML_TYPE_F16;
  fail(ErrorCode::invalid_argument, "kv_type '", name, "' is none of f32, f16");
}

// A piece of at most 30 s, as the reference puts it into a batch.
struct Piece {
  std::vector<float> mel;  // [frames, bins]
  int64_t frames = 0;
};

int64_t chunk_positions(std::optional<double> chunk_seconds) {
  if (!chunk_seconds) return 0;
  // 50 positions a second; chunks beyond a piece are no chunks.
  const double positions = std::floor(*chunk_seconds * 50.0 + 1e-9);
  require(std::isfinite(positions) && positions >= 1, ErrorCode::invalid_argument,
          "chunk_seconds must be at least ", "0.02, not ", *chunk_seconds);
  return static_cast<int64_t>(std::min(positions, 1e6));
}

Mel features(const LogMel& mel, std::span<const float> samples) {
  if (samples.empty() || samples.size() >= kMinClipSamples) return mel.clip(samples);
  std::vector<float> lengthened(kMinClipSamples);
  std::copy(samples.begin(), samples.end(), lengthened.begin());
  return mel.clip(lengthened);
}

// Rows of each band of `mel` from `first` on.
Piece cut(const Mel& mel, int64_t first) {
  Piece piece;
  piece.frames = std::min<int64_t>(kClipSamples / kMelHop, mel.frames - first);
  for (int64_t m = 0; m < mel.bins; ++m) {
    const float* row = mel.data.data() + m * mel.frames + first;
    piece.mel.insert(piece.mel.end(), row, row + piece.frames);
  }
  return piece;
}

}  // namespace

AudioEncoder::Impl::Impl(std::shared_ptr<const GgufFile> file_, const AudioEncoderOptions& options_)
    : options(options_),
      kv_type(parse_kv_type(options.kv_type)),
      device(std::make_shared<Device>(options.device)),
      file(std::move(file_)),
      encoder(file, device, {parse_weight_format(options.weight_format), options.repack}),
      executor(std::make_shared<Executor>(device)),
      mel(encoder.config().filters),
      clips(executor, encoder.max_nodes()) {
  const EncoderConfig& c = encoder.config();
  info.n_layers = c.n_layers;
  info.width = c.width;
  info.n_heads = c.n_heads;
  info.ffn_width = c.ffn_width;
  info.n_positions = c.n_positions;
  info.bins = c.bins;
  info.pool = c.pool;
  info.embed_width = c.embed_width;
  for (const GgufTensor& t : file->tensors()) info.parameters += static_cast<uint64_t>(t.elements());
  info.file_bytes = file->file_size();
  info.copied_bytes = encoder.weights().copied_bytes();
  const MatrixTotals totals = total(encoder.matrices());
  info.matrix_bytes = totals.bytes;
  info.matrix_type = totals.type;
}

// The shape of a piece of `frames` in a batch whose longest piece has `batch_frames`. Padding is visible to
// the positions of the piece's last chunk (to all if there are no chunks) up to the index `frames`: the
// reference compares positions, of which there are half as many, with frames.
EncoderShape AudioEncoder::Impl::clip_shape(int64_t frames, int64_t batch_frames, int64_t chunk) const {
  EncoderShape shape;
  shape.projected = audio_position_count(frames);
  shape.positions = std::min(frames, audio_position_count(batch_frames));
  if (chunk > 0) {
    shape.positions = std::min(shape.positions, (shape.projected + chunk - 1) / chunk * chunk);
  }
  // A position sees mel frames up to the second after its own.
  shape.frames = std::min(batch_frames, 2 * shape.positions + 1);
  shape.limited = chunk > 0 && chunk < shape.positions;
  return shape;
}

void AudioEncoder::Impl::set_clip_inputs(const EncoderTensors& t, const EncoderShape& shape,
                                         std::span<const float> piece, int64_t chunk) {
  const auto frames = static_cast<size_t>(shape.frames);
  const auto bands = static_cast<size_t>(info.bins);
  const size_t given = std::min(piece.size() / bands, frames);
  padded.assign(frames * bands, 0.0F);
  for (size_t m = 0; m < bands; ++m) {
    std::copy_n(piece.data() + m * (piece.size() / bands), given, padded.data() + m * frames);
  }
  executor->set<float>(t.mel, padded);
  rows.resize(static_cast<size_t>(shape.positions));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
  executor->set<int32_t>(t.rows, rows);
  if (!shape.limited) return;
  seen.resize(rows.size());
  for (size_t i = 0; i < seen.size(); ++i) {
    const int64_t chunk_end = (static_cast<int64_t>(i) / chunk + 1) * chunk;
    seen[i] = static_cast<int32_t>(std::min(shape.positions, chunk_end));
  }
  t.visible.set(*executor, seen, mask);
}

AudioEncoder::AudioEncoder(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AudioEncoder::~AudioEncoder() = default;

std::shared_ptr<AudioEncoder> AudioEncoder::open(const std::string& path,
                                                 const AudioEncoderOptions& options) {
  auto impl = std::make_unique<Impl>(std::make_shared<const GgufFile>(path), options);
  log(LogLevel::info, str(path, ": audio encoder, ", impl->info.n_layers, " layers, ",
                          impl->info.parameters / 1000000, " M parameters on ", impl->device->name(), ", ",
                          impl->info.copied_bytes / 1000000, " MB converted or repacked"));
  return std::shared_ptr<AudioEncoder>(new AudioEncoder(std::move(impl)));
}

std::shared_ptr<AudioEncoder> AudioEncoder::synthetic(const SyntheticAudioEncoder& sizes,
                                                      const AudioEncoderOptions& options) {
  return std::shared_ptr<AudioEncoder>(
      new AudioEncoder(std::make_unique<Impl>(synthetic_audio_encoder(sizes), options)));
}

const AudioEncoderInfo& AudioEncoder::info() const {
  return impl_->info;
}
std::string AudioEncoder::device_name() const {
  return impl_->device->name();
}
const LogMel& AudioEncoder::mel() const {
  return impl_->mel;
}

int64_t AudioEncoder::embedding_count(int64_t samples) const {
  return audio_embedding_count(samples, static_cast<int>(impl_->info.pool));
}

std::vector<float> AudioEncoder::encode(std::span<const float> samples,
                                        std::optional<double> chunk_seconds) const {
  return encode_batch(std::span(&samples, 1), chunk_seconds);
}

std::vector<float> AudioEncoder::encode_batch(std::span<const std::span<const float>> clips,
                                              std::optional<double> chunk_seconds) const {
  Impl& impl = *impl_;
  const int64_t chunk = chunk_positions(chunk_seconds);
  std::vector<Piece> pieces;
  int64_t longest = 0;
  for (const auto samples : clips) {
    const Mel mel = features(impl.mel, samples);
    for (int64_t first = 0; first < mel.frames; first += kClipSamples / kMelHop) {
      pieces.push_back(cut(mel, first));
      longest = std::max(longest, pieces.back().frames);
    }
  }
  std::vector<float> embeds;
  for (const Piece& piece : pieces) {
    const EncoderShape shape = impl.clip_shape(piece.frames, longest, chunk);
    if (shape.projected < impl.info.pool) continue;  // too short an end for an embedding
    const std::lock_guard lock(impl.executor->mutex());
    EncoderTensors& t =
        impl.clips.get(shape.key(), [&](Graph& g) { return impl.encoder.build(g, shape, nullptr); });
    impl.set_clip_inputs(t, shape, piece.mel, chunk);
    impl.clips.run();
    const size_t start = embeds.size();
    embeds.resize(start + static_cast<size_t>(ggml_nelements(t.embeds)));
    impl.executor->get<float>(t.embeds, std::span(embeds).subspan(start));
  }
  return embeds;
}

AudioStages AudioEncoder::inspect(std::span<const float> samples, std::optional<double> chunk_seconds) const {
  Impl& impl = *impl_;
  require(samples.size() <= kClipSamples, ErrorCode::invalid_argument, "inspect() takes at most ",
          kClipSamples, " samples, got ", samples.size());
  const int64_t chunk = chunk_positions(chunk_seconds);
  const Mel mel = features(impl.mel, samples);
  const EncoderShape shape = impl.clip_shape(mel.frames, mel.frames, chunk);
  const std::lock_guard lock(impl.executor->mutex());
  GraphCache<EncoderTensors> graphs(impl.executor, impl.encoder.max_nodes(), 1);
  const EncoderTensors& t =
      graphs.get(shape.key(), [&](Graph& g) { return impl.encoder.build(g, shape, nullptr, true); });
  impl.set_clip_inputs(t, shape, mel.data, chunk);
  graphs.run();
  AudioStages stages;
  const auto read = [&](const ggml_tensor* from, std::vector<float>& to) {
    to.resize(static_cast<size_t>(ggml_nelements(from)));
    impl.executor->get<float>(from, std::span(to));
  };
  read(t.conv1, stages.conv1);
  read(t.conv2, stages.conv2);
  read(t.layer0, stages.layer0);
  read(t.encoded, stages.encoded);
  read(t.all, stages.projected);
  read(t.embeds, stages.embeds);
  return stages;
}

}  // namespace omni
