// tests/duplex_vocabulary.h - a small vocabulary with the tokens of the duplex protocol.
#pragma once

#include "omni/tokenizer.h"

#include <stdexcept>
#include <string>
#include <vector>

namespace omni::duplex_test {

// The tokens of the protocol and, as in every byte-level vocabulary, one for each byte: a, b, c and d among
// them.
inline std::vector<std::string> make_tokens() {
  std::vector<std::string> tokens;
  int others = 0;
  for (int byte = 0; byte < 256; ++byte) {
    // Printable bytes stand for themselves, the others for the code points from 256 on.
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = printable ? byte : 256 + others++;
    if (code < 128) {
      tokens.emplace_back(1, static_cast<char>(code));
    } else {
      tokens.push_back({static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))});
    }
  }
  for (const char* special : {"<unk>", "<unit>", "</unit>", "<image>", "</image>", "<slice>", "</slice>",
                              "<|listen|>", "<|speak|>", "<|tts_bos|>", "<|tts_pad|>", "<|chunk_eos|>",
                              "<|chunk_tts_eos|>", "<|turn_eos|>", "<|im_start|>", "<|im_end|>"}) {
    tokens.emplace_back(special);
  }
  return tokens;
}

inline const std::vector<std::string>& tokens() {
  static const std::vector<std::string> all = make_tokens();
  return all;
}

inline Tokenizer tokenizer() {
  Vocabulary v;
  v.tokens = tokens();
  v.types.assign(256, 1);
  v.types.resize(v.tokens.size(), 3);
  v.eos = static_cast<int32_t>(v.tokens.size()) - 1;
  v.bad_token_ids = std::vector<int32_t>{};
  return Tokenizer(v, "test");
}

inline int32_t id(const std::string& text) {
  for (size_t i = 0; i < tokens().size(); ++i) {
    if (tokens()[i] == text) return static_cast<int32_t>(i);
  }
  throw std::out_of_range(text);
}

}  // namespace omni::duplex_test
