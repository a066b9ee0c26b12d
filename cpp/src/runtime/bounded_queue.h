// runtime/bounded_queue.h - what passes from one thread to the next.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

namespace omni {

// First in, first out, with a fixed number of places. T is default-constructible and movable.
//
// end(): nothing more is pushed, what is there can still be popped. close(): what is there is of no interest
// either. Both wake everybody who waits.
template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : slots_(capacity) {}

  // Waits for a place. False, `value` untouched, after end() or close().
  bool push(T& value) {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return ended_ || size_ < slots_.size(); });
    return put(value);
  }

  enum class Pushed { yes, no_room, ended };

  // The same for a limited time.
  template <typename Rep, typename Period>
  Pushed push_for(T& value, std::chrono::duration<Rep, Period> timeout) {
    std::unique_lock lock(mutex_);
    if (!room_.wait_for(lock, timeout, [&] { return ended_ || size_ < slots_.size(); })) {
      return Pushed::no_room;
    }
    return put(value) ? Pushed::yes : Pushed::ended;
  }

  // Never waits: without a place the oldest goes to `displaced`, and `was_full` is set.
  bool push_over(T& value, T& displaced, bool& was_full) {
    const std::scoped_lock lock(mutex_);
    was_full = !ended_ && size_ == slots_.size();
    if (was_full) displaced = take();
    return put(value);
  }

  // Waits for something. False when nothing more will come.
  bool pop(T& value) {
    std::unique_lock lock(mutex_);
    filled_.wait(lock, [&] { return closed_ || ended_ || size_ > 0; });
    if (closed_ || size_ == 0) return false;
    value = take();
    room_.notify_one();
    return true;
  }

  bool try_pop(T& value) {
    const std::scoped_lock lock(mutex_);
    if (closed_ || size_ == 0) return false;
    value = take();
    room_.notify_one();
    return true;
  }

  void end() {
    const std::scoped_lock lock(mutex_);
    ended_ = true;
    room_.notify_all();
    filled_.notify_all();
  }

  void close() {
    const std::scoped_lock lock(mutex_);
    ended_ = closed_ = true;
    room_.notify_all();
    filled_.notify_all();
  }

  size_t size() const {
    const std::scoped_lock lock(mutex_);
    return size_;
  }

 private:
  bool put(T& value) {
    if (ended_) return false;
    slots_[(first_ + size_) % slots_.size()] = std::move(value);
    ++size_;
    filled_.notify_one();
    return true;
  }
  T take() {
    T value = std::move(slots_[first_]);
    slots_[first_] = T();
    first_ = (first_ + 1) % slots_.size();
    --size_;
    return value;
  }

  mutable std::mutex mutex_;
  std::condition_variable room_;
  std::condition_variable filled_;
  std::vector<T> slots_;
  size_t first_ = 0;
  size_t size_ = 0;
  bool ended_ = false;
  bool closed_ = false;
};

}  // namespace omni
