// tests/audio_encoder_test.cpp - the encoder with random weights: streams against clips, snapshots, errors.
#include "omni/audio_encoder.h"

#include "omni/error.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace omni {
namespace {

constexpr size_t kWidth = 96;  // of an embedding

std::shared_ptr<AudioEncoder> small_encoder() {
  const SyntheticAudioEncoder sizes{
      .type = "F32", .n_layers = 2, .width = 64, .n_heads = 4, .embed_width = kWidth};
  return AudioEncoder::synthetic(sizes, {.kv_type = "f32", .device = {.n_threads = 1}});
}

std::vector<float> noise(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = 0.1F * (static_cast<float>(random() % 20001) / 10000.0F - 1.0F);
  return x;
}

double relative_rms(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference += (a[i] - b[i]) * static_cast<double>(a[i] - b[i]);
    size += b[i] * static_cast<double>(b[i]);
  }
  return std::sqrt(difference / size);
}

// White noise lies far above any floor, so the features of a stream without lead-in are those of a clip, and
// seconds with context join without seams: what is left is how attention is computed.
TEST(AudioStream, EqualsAClipInChunksOfASecond) {
  const auto encoder = small_encoder();
  const auto wav = noise(16000 * 5, 1);
  MelStreamOptions options = MelStreamOptions::duplex();
  options.lead_in_samples = 0;
  const auto stream = encoder->stream(options);
  std::vector<float> embeds;
  EXPECT_EQ(stream->push(wav, embeds), 40);
  EXPECT_EQ(stream->length(), 200);
  const auto clip = encoder->encode(wav);
  ASSERT_EQ(clip.size(), 50 * kWidth);
  EXPECT_LT(relative_rms(embeds, std::span(clip).first(40 * kWidth)), 1e-5);
  // The test can tell: without context the seams show.
  options.context_frames = 0;
  embeds.clear();
  encoder->stream(options)->push(wav, embeds);
  EXPECT_GT(relative_rms(embeds, std::span(clip).first(40 * kWidth)), 1e-3);
}

TEST(AudioStream, StartsAgainBeforePositionsEnd) {
  const auto encoder = small_encoder();
  const auto stream = encoder->stream(MelStreamOptions::duplex());
  const auto wav = noise(16000 * 60, 2);
  std::vector<float> embeds;
  for (int second = 1; second <= 60; ++second) {
    embeds.clear();
    EXPECT_EQ(stream->push(std::span(wav).subspan(16000 * static_cast<size_t>(second - 1), 16000), embeds),
              10);
    EXPECT_EQ(stream->length(), 50 * ((second - 1) % 29 + 1)) << second;
    EXPECT_EQ(stream->encoded().size(), 50U * 64U);
  }
}

TEST(AudioStream, CloneContinuesOnItsOwn) {
  const auto encoder = small_encoder();
  const auto wav = noise(16000 * 4, 3);
  const auto stream = encoder->stream();
  std::vector<float> unused;
  stream->push(std::span(wav).first(30000), unused);
  const auto copy = stream->clone();
  std::vector<float> a;
  std::vector<float> b;
  stream->push(std::span(wav).subspan(30000), a);
  stream->flush(a);
  copy->push(std::span(wav).subspan(30000), b);
  copy->flush(b);
  EXPECT_FALSE(a.empty());
  EXPECT_EQ(a, b);
}

TEST(AudioStream, KeepsItsEncoderAlive) {
  auto encoder = small_encoder();
  const auto stream = encoder->stream();
  encoder.reset();
  std::vector<float> embeds;
  EXPECT_EQ(stream->push(noise(16000, 4), embeds), 10);
  EXPECT_EQ(embeds.size(), 10 * kWidth);
  EXPECT_EQ(stream->push({}, embeds), 0);
}

TEST(AudioEncoder, RefusesBadInput) {
  const auto encoder = small_encoder();
  EXPECT_THROW(encoder->encode({}), Error);
  EXPECT_THROW(encoder->encode(noise(16000, 5), 0.0), Error);
  EXPECT_THROW(encoder->inspect(noise(480001, 6)), Error);
  EXPECT_THROW(AudioEncoder::synthetic({.type = "Q2_X"}), Error);
  EXPECT_THROW(AudioEncoder::synthetic({.type = "F32", .n_layers = 0}), Error);
  EXPECT_THROW(AudioEncoder::open("no-such-file.gguf"), Error);
  EXPECT_EQ(encoder->encode_batch({}).size(), 0U);
}

}  // namespace
}  // namespace omni
