// session/duplex_window.cpp - dropping the oldest units of a session.
#include "session/duplex_window.h"

#include <algorithm>

namespace omni {

DuplexWindow::DuplexWindow(SessionModel& model, const Tokenizer& tokenizer, const DuplexOptions& options)
    : model_(model), tokenizer_(tokenizer), options_(options) {}

void DuplexWindow::begin(int64_t prefix_rows, std::vector<int32_t> suffix, std::vector<int32_t> marker) {
  prefix_rows_ = prefix_rows;
  suffix_ = std::move(suffix);
  marker_ = std::move(marker);
  previous_.clear();
  units_.clear();
}

int64_t DuplexWindow::protected_rows() const {
  return prefix_rows_ + static_cast<int64_t>(previous_.size() + suffix_.size());
}

void DuplexWindow::add(DuplexUnit unit) {
  units_.push_back(std::move(unit));
}

void DuplexWindow::enforce() {
  switch (options_.sliding_window_mode) {
    case WindowMode::off:
      return;
    case WindowMode::basic:
      if (model_.length() <= options_.basic_window_high_tokens) return;
      while (!units_.empty() && model_.length() > options_.basic_window_low_tokens) drop_oldest();
      return;
    case WindowMode::context:
      while (static_cast<int64_t>(units_.size()) > options_.context_max_units) drop_oldest();
      return;
  }
}

bool DuplexWindow::remember(const DuplexUnit& unit) {
  if (options_.sliding_window_mode != WindowMode::context || unit.is_listen) return false;
  std::vector<int32_t> said;
  for (const int32_t id : unit.spoken_ids) {
    if (!tokenizer_.is_special(id)) said.push_back(id);
  }
  if (said.empty()) return false;
  if (previous_.empty()) previous_ = marker_;
  previous_.insert(previous_.end(), said.begin(), said.end());
  const auto content = static_cast<int64_t>(previous_.size() - marker_.size());
  const int64_t excess = std::max<int64_t>(0, content - options_.context_previous_max_tokens);
  const auto begin = previous_.begin() + static_cast<int64_t>(marker_.size());
  previous_.erase(begin, begin + excess);
  return true;
}

void DuplexWindow::drop_oldest() {
  const DuplexUnit unit = std::move(units_.front());
  units_.erase(units_.begin());
  const int64_t head = protected_rows();
  if (!remember(unit)) {
    model_.remove(head, unit.rows);
    return;
  }
  // The system prompt changes behind its prefix: the kept units step aside, previous and suffix are computed
  // on top of the prefix alone, and the units, which still know what was dropped, follow.
  const int64_t kept = model_.length() - head - unit.rows;
  const int64_t new_head = protected_rows();
  model_.move(head + unit.rows, kept, new_head);
  model_.truncate(prefix_rows_);
  std::vector<int32_t> ids = previous_;
  ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  embeds_.resize(ids.size() * static_cast<size_t>(model_.width()));
  model_.embed(ids, embeds_);
  model_.forward(embeds_, -1);
  model_.extend(new_head + kept);
}

}  // namespace omni
