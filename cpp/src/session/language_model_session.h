// session/language_model_session.h - a language model and one cache as a SessionModel.
#pragma once

#include "omni/duplex.h"
#include "omni/language_model.h"

#include <memory>

namespace omni {

class LanguageModelSession : public SessionModel {
 public:
  LanguageModelSession(std::shared_ptr<LanguageModel> model, std::unique_ptr<KvCache> cache)
      : model_(std::move(model)), cache_(std::move(cache)) {}

  int64_t width() const override { return model_->info().width; }
  int32_t n_vocab() const override { return static_cast<int32_t>(model_->info().n_vocab); }
  int64_t length() const override { return cache_->length(); }
  int64_t capacity() const override { return cache_->capacity(); }
  void embed(std::span<const int32_t> ids, std::span<float> out) const override { model_->embed(ids, out); }
  Output forward(std::span<const float> embeds, int64_t logits_row) override {
    // The hidden state of the last row is always wanted, and only the rows whose logits are asked for come
    // back with theirs; a decision made earlier than at the last row needs all of them.
    const auto last = static_cast<int64_t>(embeds.size()) / width() - 1;
    const auto row = static_cast<int32_t>(logits_row);
    const bool at_last = logits_row == last;
    model_->forward(*cache_, embeds, std::span(&row, logits_row >= 0 ? 1 : 0),
                    at_last ? Hidden::rows : Hidden::all, result_);
    return {result_.logits, std::span<const float>(result_.hidden).last(static_cast<size_t>(width()))};
  }
  void reset() override { cache_->reset(); }
  void truncate(int64_t length) override { cache_->truncate(length); }
  void extend(int64_t length) override { cache_->extend(length); }
  void remove(int64_t first, int64_t count) override { cache_->remove(first, count); }
  void move(int64_t first, int64_t count, int64_t target) override { cache_->move(first, count, target); }

  const KvCache& cache() const { return *cache_; }
  // Goes on from a copy of another state of this cache.
  void restore(const KvCache& cache) { cache_ = cache.clone(); }

 private:
  std::shared_ptr<LanguageModel> model_;
  std::unique_ptr<KvCache> cache_;
  ForwardResult result_;
};

}  // namespace omni
