// tests/gguf_file_test.cpp - the GGUF parser on good, truncated and hostile bytes.
#include "base/gguf_file.h"

#include "omni/error.h"

#include <cstring>

#include <gtest/gtest.h>

namespace omni {
namespace {

// Writes GGUF bytes by hand, so that every field can be made wrong.
class Builder {
 public:
  template <typename T>
  Builder& put(T value) {
    const size_t at = bytes_.size();
    bytes_.resize(at + sizeof(T));
    std::memcpy(bytes_.data() + at, &value, sizeof(T));
    return *this;
  }
  Builder& text(std::string_view s) {
    put<uint64_t>(s.size());
    bytes_.insert(bytes_.end(), s.begin(), s.end());
    return *this;
  }
  Builder& header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    bytes_.insert(bytes_.end(), {'G', 'G', 'U', 'F'});
    return put(version).put(tensors).put(keys);
  }
  Builder& tensor(std::string_view name, std::initializer_list<uint64_t> ne, uint32_t type, uint64_t offset) {
    text(name).put<uint32_t>(static_cast<uint32_t>(ne.size()));
    for (const uint64_t extent : ne) put(extent);
    return put(type).put(offset);
  }
  Builder& align() {
    bytes_.resize((bytes_.size() + 31) / 32 * 32);
    return *this;
  }
  GgufFile parse() const { return {std::span(bytes_), "test.gguf"}; }
  std::vector<uint8_t>& bytes() { return bytes_; }

 private:
  std::vector<uint8_t> bytes_;
};

Builder good_file() {
  Builder b;
  b.header(1, 3);
  b.text("a.number").put<uint32_t>(5).put<int32_t>(7);
  b.text("a.text").put<uint32_t>(8).text("hello");
  b.text("a.list").put<uint32_t>(9).put<uint32_t>(8).put<uint64_t>(2).text("x").text("yz");
  b.tensor("w", {4, 2}, GGML_TYPE_F32, 0).align();
  for (int i = 0; i < 8; ++i) b.put<float>(static_cast<float>(i));
  return b;
}

std::string message_of(const Builder& b) {
  try {
    b.parse();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::format);
    return e.what();
  }
  return "no error";
}

TEST(GgufFile, ReadsKeysAndTensors) {
  const Builder b = good_file();
  const GgufFile file = b.parse();
  EXPECT_EQ(file.u32("a.number"), 7U);
  EXPECT_EQ(file.text("a.text"), "hello");
  EXPECT_EQ(file.texts("a.list"), (std::vector<std::string_view>{"x", "yz"}));
  EXPECT_EQ(file.u32("absent", 3), 3U);
  const GgufTensor& t = file.tensor("w", {4, 2});
  EXPECT_EQ(t.size, 32U);
  float last = 0;
  std::memcpy(&last, t.data + 28, 4);
  EXPECT_EQ(last, 7.0F);
  EXPECT_THROW(file.tensor("w", {2, 4}), Error);
  EXPECT_THROW(file.u32("a.text"), Error);
  EXPECT_THROW(file.text("absent"), Error);
}

TEST(GgufFile, EveryTruncationIsAnError) {
  Builder b = good_file();
  const std::vector<uint8_t> whole = b.bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THROW(GgufFile(std::span(whole).first(size), "cut.gguf"), Error) << size;
  }
}

TEST(GgufFile, EveryFlippedByteIsHandled) {
  Builder b = good_file();
  std::vector<uint8_t> bytes = b.bytes();
  for (size_t at = 0; at < bytes.size(); ++at) {
    for (const uint8_t flip : {0x01, 0x80, 0xFF}) {
      bytes[at] ^= flip;
      try {
        const GgufFile file(std::span<const uint8_t>(bytes), "flipped.gguf");
        for (const std::string_view key : file.keys())
          EXPECT_FALSE(file.describe(key).empty() && key.empty());
      } catch (const Error& e) {
        EXPECT_EQ(e.code(), ErrorCode::format);
      }
      bytes[at] ^= flip;
    }
  }
}

TEST(GgufFile, HostileCounts) {
  const uint64_t huge = ~uint64_t{0};
  EXPECT_NE(message_of(Builder().header(huge, 0)).find("tensors"), std::string::npos);
  EXPECT_NE(message_of(Builder().header(0, huge)).find("keys"), std::string::npos);
  EXPECT_NE(message_of(Builder().header(0, 1).put<uint64_t>(huge).put<uint64_t>(0)).find("bytes long"),
            std::string::npos);
  Builder strings;
  strings.header(0, 1).text("k").put<uint32_t>(9).put<uint32_t>(8).put<uint64_t>(huge);
  EXPECT_NE(message_of(strings).find("strings"), std::string::npos);
  Builder numbers;
  numbers.header(0, 1).text("k").put<uint32_t>(9).put<uint32_t>(6).put<uint64_t>(huge / 4);
  EXPECT_NE(message_of(numbers).find("elements"), std::string::npos);
}

TEST(GgufFile, HostileTensors) {
  EXPECT_NE(message_of(Builder().header(1, 0).tensor("w", {1U << 31, 1U << 31, 1U << 31}, 0, 0).align())
                .find("impossible"),
            std::string::npos);
  EXPECT_NE(
      message_of(Builder().header(1, 0).tensor("w", {8}, 0, uint64_t{1} << 60).align()).find("truncated"),
      std::string::npos);
  EXPECT_NE(message_of(Builder().header(1, 0).tensor("w", {8}, 9999, 0).align()).find("unknown type"),
            std::string::npos);
  EXPECT_NE(message_of(Builder().header(1, 0).tensor("w", {33}, GGML_TYPE_Q8_0, 0).align()).find("blocks"),
            std::string::npos);
  Builder twice;
  twice.header(2, 0).tensor("w", {1}, 0, 0).tensor("w", {1}, 0, 0).align();
  twice.bytes().resize(twice.bytes().size() + 64);
  EXPECT_NE(message_of(twice).find("twice"), std::string::npos);
}

TEST(GgufFile, MissingFileAndFolder) {
  EXPECT_THROW(GgufFile("/no/such/file.gguf"), Error);
  EXPECT_THROW(GgufFile("/"), Error);
}

}  // namespace
}  // namespace omni
