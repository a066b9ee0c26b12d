// text/literal_tokens.h - finds the tokens that are matched literally in text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>

namespace omni {

class LiteralTokens {
 public:
  struct Match {
    size_t begin = std::string_view::npos;  // npos: none
    size_t end = 0;
    int32_t id = -1;
  };

  static constexpr size_t kMaxBytes = 256;  // longest token; bounds the work for each byte of text

  void add(std::string_view token, int32_t id);
  // The leftmost match at or behind `from`; of several there the longest.
  Match find(std::string_view text, size_t from) const;

 private:
  static uint64_t edge(uint32_t node, char byte) {
    return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
  }

  std::unordered_map<uint64_t, uint32_t> edges_;  // (node, byte) -> node; 0 is the root
  std::unordered_map<uint32_t, int32_t> ends_;    // node -> token
  std::array<bool, 256> first_bytes_{};
  uint32_t nodes_ = 1;
};

}  // namespace omni
