// session/duplex_window.cpp - dropping the oldest units of a session.
#include "session/duplex_window.h"

#include <algorithm>

namespace omni {

DuplexWindow::DuplexWindow(SessionModel& model, const Tokenizer& tokenizer, const DuplexOptions& options)
    : model_(model), tokenizer_(tokenizer), options_(options) {}

void DuplexWindow::begin(int64_t prefix_rows, std::vector<int32_t> suffix, std::vector<int32_t> marker) {
  state_.prefix_rows = prefix_rows;
  state_.suffix = std::move(suffix);
  state_.marker = std::move(marker);
  state_.previous.clear();
  state_.units.clear();
}

int64_t DuplexWindow::protected_rows() const {
  return state_.prefix_rows + static_cast<int64_t>(state_.previous.size() + state_.suffix.size());
}

void DuplexWindow::add(DuplexUnit unit) {
  state_.units.push_back(std::move(unit));
}

void DuplexWindow::enforce() {
  switch (options_.sliding_window_mode) {
    case WindowMode::off:
      return;
    case WindowMode::basic:
      if (model_.length() <= options_.basic_window_high_tokens) return;
      while (!state_.units.empty() && model_.length() > options_.basic_window_low_tokens) drop_oldest();
      return;
    case WindowMode::context:
      while (static_cast<int64_t>(state_.units.size()) > options_.context_max_units) drop_oldest();
      return;
  }
}

void DuplexWindow::make_room(int64_t rows) {
  if (options_.sliding_window_mode == WindowMode::off || model_.length() + rows <= model_.capacity()) return;
  int64_t low = model_.capacity() - rows;
  // Down to where the mode would stop, so that not every unit has to.
  if (options_.sliding_window_mode == WindowMode::basic) {
    low = std::min(low, options_.basic_window_low_tokens);
  }
  while (!state_.units.empty() && model_.length() > low) drop_oldest();
}

bool DuplexWindow::remember(const DuplexUnit& unit) {
  if (options_.sliding_window_mode != WindowMode::context || unit.is_listen) return false;
  std::vector<int32_t> said;
  for (const int32_t id : unit.spoken_ids) {
    if (!tokenizer_.is_special(id)) said.push_back(id);
  }
  if (said.empty()) return false;
  if (state_.previous.empty()) state_.previous = state_.marker;
  state_.previous.insert(state_.previous.end(), said.begin(), said.end());
  const auto content = static_cast<int64_t>(state_.previous.size() - state_.marker.size());
  const int64_t excess = std::max<int64_t>(0, content - options_.context_previous_max_tokens);
  const auto begin = state_.previous.begin() + static_cast<int64_t>(state_.marker.size());
  state_.previous.erase(begin, begin + excess);
  return true;
}

void DuplexWindow::drop_oldest() {
  const DuplexUnit unit = std::move(state_.units.front());
  state_.units.erase(state_.units.begin());
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
  model_.truncate(state_.prefix_rows);
  std::vector<int32_t> ids = state_.previous;
  ids.insert(ids.end(), state_.suffix.begin(), state_.suffix.end());
  embeds_.resize(ids.size() * static_cast<size_t>(model_.width()));
  model_.embed(ids, embeds_);
  model_.forward(embeds_, -1);
  model_.extend(new_head + kept);
}

}  // namespace omni
