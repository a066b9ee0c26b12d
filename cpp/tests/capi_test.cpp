// tests/capi_test.cpp - the C interface: every function with NULL, wrong sizes and missing files, and the
// encoders beside the C++ ones.
#include "omni/audio_encoder.h"
#include "omni/omni.h"
#include "omni/vision_encoder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "audio/synthetic.h"
#include "llm/synthetic.h"
#include "vision/synthetic.h"
#include <gtest/gtest.h>

namespace omni {
namespace {

constexpr size_t kWidth = 128;  // D of all networks here
constexpr size_t kQueries = 5;
constexpr int32_t kVocab = 96;

// A directory with a model's files, small and random.
class Capi : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    SyntheticLanguageModel llm;
    llm.type = "F32";
    llm.n_layers = 1;
    llm.width = kWidth;
    llm.n_vocab = kVocab;
    llm.n_heads = llm.n_kv_heads = 2;
    llm.head_dim = 64;
    llm.ffn_width = 64;
    synthetic_language_model(llm)->save(path("llm.gguf"));
    SyntheticVisionEncoder vision;
    vision.type = "F32";
    vision.n_layers = 1;
    vision.width = 96;
    vision.ffn_width = 128;
    vision.n_heads = 4;
    vision.n_queries = kQueries;
    vision.embed_width = kWidth;
    synthetic_vision_encoder(vision)->save(path("vision.gguf"));
    SyntheticAudioEncoder audio;
    audio.type = "F32";
    audio.n_layers = 1;
    audio.width = 64;
    audio.n_heads = 2;
    audio.embed_width = kWidth;
    synthetic_audio_encoder(audio)->save(path("audio.gguf"));
    std::ofstream(path("broken.gguf")) << "GGUF\3";
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(directory()); }

  static std::filesystem::path directory() {
    static const std::filesystem::path made = [] {
      // Tests run side by side, each in a process of its own.
      const auto name =
          std::filesystem::temp_directory_path() / ("omni-capi-" + std::to_string(std::random_device()()));
      std::filesystem::create_directories(name);
      return name;
    }();
    return made;
  }
  static std::string path(const char* name) { return (directory() / name).string(); }

  void SetUp() override {
    auto llm = omni_model_default_params();
    llm.n_threads = 1;
    llm.n_ctx = 32;
    ASSERT_EQ(omni_model_open(path("llm.gguf").c_str(), &llm, &model), OMNI_OK) << omni_last_error();
    ASSERT_EQ(omni_cache_new(model, 0, &cache), OMNI_OK) << omni_last_error();
    ASSERT_EQ(omni_sampler_new(kVocab, nullptr, &sampler), OMNI_OK) << omni_last_error();
    auto eyes = omni_vision_default_params();
    eyes.n_threads = 1;
    ASSERT_EQ(omni_vision_open(path("vision.gguf").c_str(), &eyes, &vision), OMNI_OK) << omni_last_error();
    auto ears = omni_audio_default_params();
    ears.n_threads = 1;
    ASSERT_EQ(omni_audio_open(path("audio.gguf").c_str(), &ears, &audio), OMNI_OK) << omni_last_error();
    ASSERT_EQ(omni_audio_stream_new(audio, nullptr, &stream), OMNI_OK) << omni_last_error();
  }
  void TearDown() override {
    // The stream and the cache outlive what they were made of.
    omni_audio_free(audio);
    omni_model_free(model);
    omni_audio_stream_free(stream);
    omni_cache_free(cache);
    omni_sampler_free(sampler);
    omni_vision_free(vision);
  }

  // The call fails with this status and says why.
  static void fails(omni_status expected, const std::string& why, omni_status got) {
    EXPECT_EQ(got, expected) << omni_last_error();
    EXPECT_NE(std::string(omni_last_error()).find(why), std::string::npos)
        << "expected '" << why << "' in: " << omni_last_error();
  }
  static void refused(const std::string& why, omni_status got) { fails(OMNI_INVALID_ARGUMENT, why, got); }

  omni_model* model = nullptr;
  omni_cache* cache = nullptr;
  omni_sampler* sampler = nullptr;
  omni_vision* vision = nullptr;
  omni_audio* audio = nullptr;
  omni_audio_stream* stream = nullptr;
};

std::vector<uint8_t> pattern(size_t bytes) {
  std::vector<uint8_t> out(bytes);
  for (size_t i = 0; i < bytes; ++i) out[i] = static_cast<uint8_t>(i * 7 + i / 91);
  return out;
}

std::vector<float> tone(size_t samples) {
  std::vector<float> out(samples);
  for (size_t i = 0; i < samples; ++i) out[i] = 0.3F * std::sin(0.05F * static_cast<float>(i));
  return out;
}

TEST_F(Capi, NamesAndVersion) {
  EXPECT_STRNE(omni_version(), "");
  EXPECT_STREQ(omni_status_name(OMNI_CONTEXT_FULL), "context full");
  EXPECT_STREQ(omni_status_name(99), "unknown status");
  EXPECT_NE(omni_last_error(), nullptr);
}

TEST_F(Capi, Devices) {
  omni_device_info info;
  ASSERT_GE(omni_device_count(), 1U);
  ASSERT_EQ(omni_device_get(0, &info), OMNI_OK);
  EXPECT_STRNE(info.name, "");
  refused("info is NULL", omni_device_get(0, nullptr));
  refused("no device", omni_device_get(1000, &info));
}

TEST_F(Capi, NothingIsFreedTwice) {
  omni_tokenizer_free(nullptr);
  omni_model_free(nullptr);
  omni_cache_free(nullptr);
  omni_sampler_free(nullptr);
  omni_vision_free(nullptr);
  omni_audio_free(nullptr);
  omni_audio_stream_free(nullptr);
  omni_duplex_free(nullptr);
  omni_set_log(nullptr, OMNI_LOG_DEBUG, nullptr);
}

TEST_F(Capi, SizesOfNothing) {
  EXPECT_EQ(omni_tokenizer_size(nullptr), 0);
  EXPECT_EQ(omni_tokenizer_find(nullptr, "a"), -1);
  EXPECT_EQ(omni_model_width(nullptr), 0);
  EXPECT_EQ(omni_model_n_vocab(nullptr), 0);
  EXPECT_EQ(omni_model_n_layers(nullptr), 0);
  EXPECT_EQ(omni_cache_length(nullptr), 0);
  EXPECT_EQ(omni_vision_width(nullptr), 0);
  EXPECT_EQ(omni_vision_n_queries(nullptr), 0);
  EXPECT_EQ(omni_audio_width(nullptr), 0);
}

// What all functions that open a file do with wrong arguments.
template <typename Object, typename Open>
void opens_only_good_files(const std::string& missing, const std::string& broken, Open open) {
  Object* untouched = nullptr;
  const auto expect = [&](omni_status expected, const std::string& why, omni_status got) {
    EXPECT_EQ(got, expected) << omni_last_error();
    EXPECT_NE(std::string(omni_last_error()).find(why), std::string::npos) << omni_last_error();
    EXPECT_EQ(untouched, nullptr);
  };
  expect(OMNI_INVALID_ARGUMENT, "path is NULL", open(nullptr, &untouched));
  expect(OMNI_INVALID_ARGUMENT, "is NULL", open(broken.c_str(), nullptr));
  expect(OMNI_FILE, "nowhere.gguf", open(missing.c_str(), &untouched));
  expect(OMNI_FORMAT, "broken.gguf", open(broken.c_str(), &untouched));
}

TEST_F(Capi, MissingAndBrokenFiles) {
  const std::string missing = path("nowhere.gguf");
  const std::string broken = path("broken.gguf");
  opens_only_good_files<omni_tokenizer>(missing, broken, omni_tokenizer_open);
  opens_only_good_files<omni_model>(
      missing, broken, [](const char* p, omni_model** out) { return omni_model_open(p, nullptr, out); });
  opens_only_good_files<omni_vision>(
      missing, broken, [](const char* p, omni_vision** out) { return omni_vision_open(p, nullptr, out); });
  opens_only_good_files<omni_audio>(
      missing, broken, [](const char* p, omni_audio** out) { return omni_audio_open(p, nullptr, out); });
}

TEST_F(Capi, FilesOfAnotherNetwork) {
  omni_vision* eyes = nullptr;
  omni_audio* ears = nullptr;
  EXPECT_NE(omni_vision_open(path("audio.gguf").c_str(), nullptr, &eyes), OMNI_OK);
  EXPECT_NE(omni_audio_open(path("vision.gguf").c_str(), nullptr, &ears), OMNI_OK);
  EXPECT_EQ(eyes, nullptr);
  EXPECT_EQ(ears, nullptr);
}

TEST_F(Capi, WrongParameters) {
  omni_vision* eyes = nullptr;
  auto vp = omni_vision_default_params();
  vp.weight_format = "int3";
  refused("int3", omni_vision_open(path("vision.gguf").c_str(), &vp, &eyes));
  vp = omni_vision_default_params();
  vp.max_batch = -1;
  refused("max_batch", omni_vision_open(path("vision.gguf").c_str(), &vp, &eyes));
  omni_audio* ears = nullptr;
  auto ap = omni_audio_default_params();
  ap.kv_type = "q2";
  refused("q2", omni_audio_open(path("audio.gguf").c_str(), &ap, &ears));
  ap = omni_audio_default_params();
  ap.device = "abacus";
  EXPECT_NE(omni_audio_open(path("audio.gguf").c_str(), &ap, &ears), OMNI_OK);
  EXPECT_NE(std::string(omni_last_error()).find("abacus"), std::string::npos);
  omni_model* brain = nullptr;
  auto mp = omni_model_default_params();
  mp.n_ctx = -5;
  refused("n_ctx", omni_model_open(path("llm.gguf").c_str(), &mp, &brain));
  omni_cache* memory = nullptr;
  refused("model is NULL", omni_cache_new(nullptr, 0, &memory));
  refused("cache is NULL", omni_cache_new(model, 0, nullptr));
  EXPECT_NE(omni_cache_new(model, -1, &memory), OMNI_OK);
  omni_sampler* dice = nullptr;
  refused("sampler is NULL", omni_sampler_new(kVocab, nullptr, nullptr));
  EXPECT_NE(omni_sampler_new(0, nullptr, &dice), OMNI_OK);
  omni_audio_stream* sound = nullptr;
  refused("audio is NULL", omni_audio_stream_new(nullptr, nullptr, &sound));
  refused("stream is NULL", omni_audio_stream_new(audio, nullptr, nullptr));
  refused("triplex", omni_audio_stream_new(audio, "triplex", &sound));
}

TEST_F(Capi, TokenizerNulls) {
  size_t count = 7;
  int32_t id = 0;
  char text = 'x';
  refused("tokenizer is NULL", omni_tokenize(nullptr, "a", 1, &id, 1, &count));
  refused("tokenizer is NULL", omni_detokenize(nullptr, &id, 1, 0, &text, 1, &count));
  EXPECT_EQ(count, 7U);
}

TEST_F(Capi, DuplexRefusals) {
  omni_duplex* session = nullptr;
  omni_duplex_parts parts{};
  omni_duplex_params params = omni_duplex_default_params();
  EXPECT_EQ(params.size, sizeof(params));
  refused("parts is NULL", omni_duplex_new(nullptr, &params, &session));
  refused("session is NULL", omni_duplex_new(&parts, &params, nullptr));
  refused("parts->size is 0", omni_duplex_new(&parts, &params, &session));
  parts.size = sizeof(parts);
  refused("tokenizer is NULL", omni_duplex_new(&parts, nullptr, &session));
  params.n_reference = 1;
  refused("reference is NULL", omni_duplex_new(&parts, &params, &session));
  params.size = 0;
  refused("params->size is 0", omni_duplex_new(&parts, &params, &session));
  EXPECT_EQ(session, nullptr);

  const float sample = 0;
  const omni_image image{};
  omni_duplex_event event{};
  refused("session is NULL", omni_duplex_push_audio(nullptr, &sample, 1));
  refused("session is NULL", omni_duplex_push_frame(nullptr, &image));
  refused("session is NULL", omni_duplex_end_input(nullptr));
  refused("session is NULL", omni_duplex_interrupt(nullptr));
  refused("session is NULL", omni_duplex_close(nullptr));
  refused("session is NULL", omni_duplex_poll(nullptr, 0, &event));
  EXPECT_EQ(omni_duplex_epoch(nullptr), 0);
}

TEST_F(Capi, LanguageModel) {
  const std::vector<int32_t> ids = {1, 2, 3};
  std::vector<float> rows(ids.size() * kWidth);
  std::vector<float> logits(kVocab);
  ASSERT_EQ(omni_model_embed(model, ids.data(), ids.size(), rows.data()), OMNI_OK) << omni_last_error();
  ASSERT_EQ(omni_decode_embeds(model, cache, rows.data(), ids.size(), nullptr, logits.data()), OMNI_OK)
      << omni_last_error();
  EXPECT_EQ(omni_cache_length(cache), 3);
  int32_t id = -1;
  ASSERT_EQ(omni_sample(sampler, logits.data(), &id), OMNI_OK) << omni_last_error();
  EXPECT_GE(id, 0);
  EXPECT_LT(id, kVocab);

  const int32_t strange = kVocab;
  refused("model is NULL", omni_model_embed(nullptr, ids.data(), 1, rows.data()));
  refused("ids is NULL", omni_model_embed(model, nullptr, 1, rows.data()));
  refused("out is NULL", omni_model_embed(model, ids.data(), 1, nullptr));
  EXPECT_EQ(omni_model_embed(model, &strange, 1, rows.data()), OMNI_INVALID_ARGUMENT);
  refused("model is NULL", omni_decode(nullptr, cache, ids.data(), 1, nullptr, nullptr));
  refused("cache is NULL", omni_decode(model, nullptr, ids.data(), 1, nullptr, nullptr));
  refused("nothing to decode", omni_decode(model, cache, nullptr, 1, nullptr, nullptr));
  refused("nothing to decode", omni_decode(model, cache, ids.data(), 0, nullptr, nullptr));
  EXPECT_EQ(omni_decode(model, cache, &strange, 1, nullptr, nullptr), OMNI_INVALID_ARGUMENT);
  refused("model is NULL", omni_decode_embeds(nullptr, cache, rows.data(), 1, nullptr, nullptr));
  refused("cache is NULL", omni_decode_embeds(model, nullptr, rows.data(), 1, nullptr, nullptr));
  refused("nothing to decode", omni_decode_embeds(model, cache, nullptr, 1, nullptr, nullptr));
  const std::vector<int32_t> many(30, 1);
  EXPECT_EQ(omni_decode(model, cache, many.data(), many.size(), nullptr, nullptr), OMNI_CONTEXT_FULL);
  EXPECT_EQ(omni_cache_length(cache), 3);

  refused("cache is NULL", omni_cache_truncate(nullptr, 0));
  refused("cache is NULL", omni_cache_remove(nullptr, 0, 1));
  EXPECT_EQ(omni_cache_truncate(cache, 4), OMNI_INVALID_ARGUMENT);
  EXPECT_EQ(omni_cache_remove(cache, 2, 2), OMNI_INVALID_ARGUMENT);
  EXPECT_EQ(omni_cache_length(cache), 3);
  refused("sampler is NULL", omni_sample(nullptr, logits.data(), &id));
  refused("logits is NULL", omni_sample(sampler, nullptr, &id));
  refused("id is NULL", omni_sample(sampler, logits.data(), nullptr));
}

TEST_F(Capi, Vision) {
  EXPECT_EQ(omni_vision_width(vision), static_cast<int64_t>(kWidth));
  EXPECT_EQ(omni_vision_n_queries(vision), static_cast<int64_t>(kQueries));
  const size_t stride = 3 * 700 + 5;
  const std::vector<uint8_t> pixels = pattern(stride * 500);
  const omni_image image{pixels.data(), 700, 500, stride};
  omni_slices slices{};
  ASSERT_EQ(omni_vision_encode(vision, &image, 4, nullptr, 0, &slices), OMNI_OK) << omni_last_error();
  EXPECT_EQ(slices.count, 3U);
  EXPECT_EQ(slices.columns * slices.rows, 2);
  std::vector<float> got(slices.count * kQueries * kWidth);
  ASSERT_EQ(omni_vision_encode(vision, &image, 4, got.data(), slices.count, &slices), OMNI_OK);
  EXPECT_EQ(slices.count, 3U);

  VisionEncoderOptions options;
  options.device.n_threads = 1;
  std::vector<float> expected;
  VisionEncoder::open(path("vision.gguf"), options)->encode({pixels.data(), 700, 500, stride}, 4, expected);
  EXPECT_EQ(got, expected);

  // Less room takes what there is room for, more room changes nothing.
  std::vector<float> two(2 * kQueries * kWidth + 1, -7.0F);
  ASSERT_EQ(omni_vision_encode(vision, &image, 4, two.data(), 2, &slices), OMNI_OK);
  EXPECT_EQ(slices.count, 3U);
  EXPECT_TRUE(std::equal(two.begin(), two.end() - 1, expected.begin()));
  EXPECT_EQ(two.back(), -7.0F);
  std::vector<float> more(expected.size() + 1, -7.0F);
  ASSERT_EQ(omni_vision_encode(vision, &image, 4, more.data(), 100, &slices), OMNI_OK);
  EXPECT_EQ(more.back(), -7.0F);
}

TEST_F(Capi, VisionRefusals) {
  const std::vector<uint8_t> pixels = pattern(3 * 4 * 4);
  const omni_image image{pixels.data(), 4, 4, 0};
  omni_slices slices{77, 7, 7};
  std::vector<float> out(kQueries * kWidth, -7.0F);
  const auto encode = [&](const omni_image& picture, int32_t max_slices) {
    return omni_vision_encode(vision, &picture, max_slices, out.data(), 1, &slices);
  };
  refused("vision is NULL", omni_vision_encode(nullptr, &image, 1, out.data(), 1, &slices));
  refused("image is NULL", omni_vision_encode(vision, nullptr, 1, out.data(), 1, &slices));
  refused("slices is NULL", omni_vision_encode(vision, &image, 1, out.data(), 1, nullptr));
  refused("embeds is NULL", omni_vision_encode(vision, &image, 1, nullptr, 1, &slices));
  refused("rgb is NULL", encode({nullptr, 4, 4, 0}, 1));
  refused("0x4", encode({pixels.data(), 0, 4, 0}, 1));
  refused("4x-1", encode({pixels.data(), 4, -1, 0}, 1));
  refused("100000x1", encode({pixels.data(), 100000, 1, 0}, 1));
  refused("stride is 11", encode({pixels.data(), 4, 4, 11}, 1));
  refused("max_slice_nums is 0", encode(image, 0));
  refused("max_slice_nums is 1000", encode(image, 1000));
  EXPECT_EQ(slices.count, 77U);
  EXPECT_EQ(out, std::vector<float>(out.size(), -7.0F));
  EXPECT_EQ(encode(image, 1), OMNI_OK);
}

TEST_F(Capi, AudioClips) {
  EXPECT_EQ(omni_audio_width(audio), static_cast<int64_t>(kWidth));
  const std::vector<float> sound = tone(20000);
  size_t count = 0;
  ASSERT_EQ(omni_audio_encode(audio, sound.data(), sound.size(), 1.0, nullptr, 0, &count), OMNI_OK);
  EXPECT_EQ(count, 12U);  // 125 frames, 63 positions, five by five
  AudioEncoderOptions options;
  options.device.n_threads = 1;
  const auto encoder = AudioEncoder::open(path("audio.gguf"), options);
  std::vector<float> got(count * kWidth);
  ASSERT_EQ(omni_audio_encode(audio, sound.data(), sound.size(), 1.0, got.data(), count, &count), OMNI_OK);
  EXPECT_EQ(got, encoder->encode(sound, 1.0));
  ASSERT_EQ(omni_audio_encode(audio, sound.data(), sound.size(), 0, got.data(), count, &count), OMNI_OK);
  EXPECT_EQ(got, encoder->encode(sound, std::nullopt));
  std::vector<float> part(3 * kWidth + 1, -7.0F);
  ASSERT_EQ(omni_audio_encode(audio, sound.data(), sound.size(), 0, part.data(), 3, &count), OMNI_OK);
  EXPECT_EQ(count, 12U);
  EXPECT_TRUE(std::equal(part.begin(), part.end() - 1, got.begin()));
  EXPECT_EQ(part.back(), -7.0F);
}

TEST_F(Capi, AudioClipRefusals) {
  std::vector<float> sound = tone(4000);
  size_t count = 77;
  std::vector<float> out(2 * kWidth);
  const auto encode = [&](double chunk) {
    return omni_audio_encode(audio, sound.data(), sound.size(), chunk, out.data(), 2, &count);
  };
  refused("audio is NULL", omni_audio_encode(nullptr, sound.data(), 1, 1.0, out.data(), 2, &count));
  refused("samples is NULL", omni_audio_encode(audio, nullptr, 1, 1.0, out.data(), 2, &count));
  refused("embeds is NULL", omni_audio_encode(audio, sound.data(), 1, 1.0, nullptr, 2, &count));
  refused("count is NULL", omni_audio_encode(audio, sound.data(), 1, 1.0, out.data(), 2, nullptr));
  refused("empty", omni_audio_encode(audio, nullptr, 0, 1.0, out.data(), 2, &count));
  refused("empty", omni_audio_encode(audio, nullptr, 0, 1.0, nullptr, 0, &count));
  refused("chunk_seconds", encode(-1.0));
  refused("chunk_seconds", encode(std::numeric_limits<double>::quiet_NaN()));
  sound[17] = std::numeric_limits<float>::infinity();
  refused("sample 17", encode(1.0));
  EXPECT_EQ(count, 77U);
}

TEST_F(Capi, AudioStreamsEqualTheEngine) {
  const std::vector<float> sound = tone(50000);
  AudioEncoderOptions options;
  options.device.n_threads = 1;
  const auto encoder = AudioEncoder::open(path("audio.gguf"), options);
  for (const char* mode : {"simplex", "duplex"}) {
    SCOPED_TRACE(mode);
    std::vector<float> expected;
    const auto reference = encoder->stream(MelStreamOptions::named(mode));
    reference->push(sound, expected);
    reference->flush(expected);

    omni_audio_stream* s = nullptr;
    ASSERT_EQ(omni_audio_stream_new(audio, mode, &s), OMNI_OK) << omni_last_error();
    for (int round = 0; round < 2; ++round) {  // the second after a reset
      std::vector<float> got;
      std::vector<float> room(4 * kWidth);
      size_t count = 0;
      const auto keep = [&] {
        const size_t rows = std::min<size_t>(count, 4);
        got.insert(got.end(), room.begin(), room.begin() + static_cast<std::ptrdiff_t>(rows * kWidth));
      };
      for (size_t at = 0; at < sound.size(); at += 7000) {
        const size_t n = std::min<size_t>(7000, sound.size() - at);
        ASSERT_EQ(omni_audio_stream_push(s, sound.data() + at, n, room.data(), 4, &count), OMNI_OK);
        keep();
        // What there was no room for comes with further calls.
        while (count > 4) {
          ASSERT_EQ(omni_audio_stream_push(s, nullptr, 0, room.data(), 4, &count), OMNI_OK);
          keep();
          ASSERT_LE(got.size(), expected.size());
        }
      }
      do {
        ASSERT_EQ(omni_audio_stream_flush(s, room.data(), 4, &count), OMNI_OK);
        keep();
        ASSERT_LE(got.size(), expected.size());
      } while (count > 4);
      EXPECT_EQ(got, expected);
      refused("flushed", omni_audio_stream_push(s, sound.data(), 1, room.data(), 4, &count));
      ASSERT_EQ(omni_audio_stream_reset(s), OMNI_OK);
    }
    omni_audio_stream_free(s);
  }
}

TEST_F(Capi, AudioStreamRefusals) {
  const std::vector<float> bad = {0.0F, std::numeric_limits<float>::quiet_NaN()};
  std::vector<float> out(kWidth);
  size_t count = 77;
  refused("stream is NULL", omni_audio_stream_push(nullptr, bad.data(), 1, out.data(), 1, &count));
  refused("samples is NULL", omni_audio_stream_push(stream, nullptr, 1, out.data(), 1, &count));
  refused("embeds is NULL", omni_audio_stream_push(stream, bad.data(), 1, nullptr, 1, &count));
  refused("count is NULL", omni_audio_stream_push(stream, bad.data(), 1, out.data(), 1, nullptr));
  refused("sample 1 of 2", omni_audio_stream_push(stream, bad.data(), 2, out.data(), 1, &count));
  refused("stream is NULL", omni_audio_stream_flush(nullptr, out.data(), 1, &count));
  refused("embeds is NULL", omni_audio_stream_flush(stream, nullptr, 1, &count));
  refused("count is NULL", omni_audio_stream_flush(stream, out.data(), 1, nullptr));
  refused("stream is NULL", omni_audio_stream_reset(nullptr));
  EXPECT_EQ(count, 77U);
  // Nothing was taken, so there is nothing to flush.
  ASSERT_EQ(omni_audio_stream_flush(stream, out.data(), 1, &count), OMNI_OK);
  EXPECT_EQ(count, 0U);
}

TEST_F(Capi, SpeechRefusals) {
  omni_voice* voice = nullptr;
  omni_speech_model* model = nullptr;
  omni_speech_stream* speech = nullptr;
  omni_token2wav* token2wav = nullptr;
  omni_token2wav_stream* sound = nullptr;
  const std::vector<float> samples(16000, 0.1F);
  int32_t tokens[25];
  size_t count = 77;
  refused("directory is NULL", omni_voice_encode(nullptr, samples.data(), samples.size(), 16000, &voice));
  refused("samples is NULL", omni_voice_encode("x", nullptr, 1, 16000, &voice));
  refused("path is NULL", omni_voice_load(nullptr, &voice));
  refused("voice is NULL", omni_voice_save(nullptr, "x"));
  refused("path is NULL", omni_speech_model_open(nullptr, nullptr, &model));
  refused("model is NULL", omni_speech_stream_new(nullptr, "duplex", 0, &speech));
  refused("stream is NULL", omni_speech_push(nullptr, tokens, samples.data(), 1, 0));
  refused("stream is NULL", omni_speech_next(nullptr, tokens, &count));
  refused("directory is NULL", omni_token2wav_open(nullptr, &token2wav));
  refused("token2wav is NULL", omni_token2wav_stream_new(nullptr, voice, 10, 0, &sound));
  refused("stream is NULL", omni_token2wav_push(nullptr, tokens, 1, 0));
  refused("stream is NULL", omni_token2wav_read(nullptr, nullptr, 0, &count));
  EXPECT_EQ(omni_voice_load("/nowhere/voice.gguf", &voice), OMNI_FILE);
  EXPECT_EQ(omni_voice_encode("/nowhere", samples.data(), samples.size(), 16000, &voice), OMNI_FILE);
  EXPECT_EQ(omni_speech_model_open("/nowhere/tts.gguf", nullptr, &model), OMNI_FILE);
  EXPECT_EQ(omni_token2wav_open("/nowhere", &token2wav), OMNI_FILE);
  EXPECT_EQ(count, 77U);
  omni_voice_free(voice);
  omni_speech_stream_free(speech);
  omni_speech_model_free(model);
  omni_token2wav_stream_free(sound);
  omni_token2wav_free(token2wav);
}

}  // namespace
}  // namespace omni
