// text/literal_tokens.cpp - finds the tokens that are matched literally in text.
#include "text/literal_tokens.h"

namespace omni {

void LiteralTokens::add(std::string_view token, int32_t id) {
  uint32_t node = 0;
  for (const char byte : token) {
    const auto [place, added] = edges_.try_emplace(edge(node, byte), nodes_);
    if (added) ++nodes_;
    node = place->second;
  }
  ends_[node] = id;
  first_bytes_[static_cast<uint8_t>(token.front())] = true;
}

LiteralTokens::Match LiteralTokens::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!first_bytes_[static_cast<uint8_t>(text[begin])]) continue;
    Match match;
    uint32_t node = 0;
    for (size_t at = begin; at < text.size(); ++at) {
      const auto next = edges_.find(edge(node, text[at]));
      if (next == edges_.end()) break;
      node = next->second;
      if (const auto end = ends_.find(node); end != ends_.end()) match = {begin, at + 1, end->second};
    }
    if (match.id >= 0) return match;
  }
  return {};
}

}  // namespace omni
