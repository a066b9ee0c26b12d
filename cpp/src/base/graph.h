// base/graph.h - compute graphs that are built once for each shape and used again.
//
//   struct Tensors { ggml_tensor* x; ggml_tensor* y; };           // the graph's inputs and outputs
//   Executor executor(device);
//   GraphCache<Tensors> graphs(executor, "my network");
//   auto& built = graphs.get({n_tokens}, [&](Graph& g) {
//     Tensors t;
//     t.x = g.input(GGML_TYPE_F32, {width, n_tokens}, "x");
//     t.y = g.output(ggml_sqr(g.ctx(), t.x), "y");
//     return t;
//   });
//   executor.set(built.x, values);  graphs.run();  executor.get(built.y, result);
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "base/device.h"
#include "base/weights.h"

namespace omni {

struct SchedulerDeleter {
  void operator()(ggml_backend_sched* sched) const { ggml_backend_sched_free(sched); }
};
struct GraphAllocatorDeleter {
  void operator()(ggml_gallocr* allocator) const { ggml_gallocr_free(allocator); }
};

// One graph under construction or built: the ggml context that holds its tensors, and the order of
// operations.
class Graph {
 public:
  // `max_nodes` bounds the operations; building more is an internal error.
  explicit Graph(size_t max_nodes);

  ggml_context* ctx() const { return context_.get(); }
  ggml_cgraph* nodes() const { return graph_; }

  // An input that is set before every run. `ne` in ggml order.
  ggml_tensor* input(ggml_type type, std::initializer_list<int64_t> ne, const char* name) const;
  // Marks a result that stays readable after a run, and adds it to the graph.
  ggml_tensor* output(ggml_tensor* tensor, const char* name) const;
  // Adds an operation whose effect is wanted, not its value (a write into a cache).
  void effect(ggml_tensor* tensor) const;

 private:
  ContextPtr context_;
  ggml_cgraph* graph_ = nullptr;
};

// Plans memory for graphs of one network and runs them. Not thread-safe: callers hold mutex() from set() to
// get().
class Executor {
 public:
  explicit Executor(std::shared_ptr<Device> device);

  Device& device() const { return *device_; }
  const std::shared_ptr<Device>& shared_device() const { return device_; }
  std::mutex& mutex() { return mutex_; }

  // Gives the graph's tensors their memory. Graphs share one buffer, since they run one after another;
  // whatever was placed at an earlier generation() must be built again.
  void place(const Graph& graph);
  uint64_t generation() const { return generation_; }

  // Runs a placed graph. Throws Error(out_of_memory | device | cancelled).
  void compute(const Graph& graph);

  template <typename T>
  void set(ggml_tensor* input, std::span<const T> values) const {
    set_bytes(input, values.data(), values.size_bytes());
  }
  template <typename T>
  void get(const ggml_tensor* output, std::span<T> values, size_t first = 0) const {
    get_bytes(output, values.data(), first * sizeof(T), values.size_bytes());
  }

  // Bytes of the shared buffer.
  size_t buffer_size() const;

 private:
  void set_bytes(ggml_tensor* input, const void* data, size_t size) const;
  void get_bytes(const ggml_tensor* output, void* data, size_t offset, size_t size) const;
  bool runs_alone(const Graph& graph) const;

  std::shared_ptr<Device> device_;
  std::unique_ptr<ggml_gallocr, GraphAllocatorDeleter> allocator_;
  std::unique_ptr<ggml_backend_sched, SchedulerDeleter>
      scheduler_;  // made when the device can't do all of a graph
  size_t scheduler_nodes_ = 0;
  const ggml_cgraph* scheduled_ = nullptr;  // the graph that the scheduler holds, if any
  uint64_t generation_ = 1;
  std::mutex mutex_;
};

// Copies all values from the tensors of one context to those of another with the same layout: the state of a
// stream.
void copy_tensors(ggml_context& from, ggml_context& to);

// What tells graphs of one network apart: token counts, cache lengths, switches.
using GraphKey = std::array<int64_t, 4>;

// The graphs of one network or state, most recently used first, at most `capacity` of them.
template <typename Tensors>
class GraphCache {
 public:
  GraphCache(std::shared_ptr<Executor> executor, size_t max_nodes, size_t capacity = 16)
      : executor_(std::move(executor)), max_nodes_(max_nodes), capacity_(capacity) {}

  // The graph for `key`, built by `build(Graph&) -> Tensors` if it is not there or lost its memory.
  template <typename Build>
  Tensors& get(const GraphKey& key, Build&& build) {
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (it->key != key) continue;
      if (it->generation != executor_->generation()) {
        entries_.erase(it);
        break;
      }
      entries_.splice(entries_.begin(), entries_, it);
      return entries_.front().tensors;
    }
    while (entries_.size() >= capacity_) entries_.pop_back();
    Graph graph(max_nodes_);
    Tensors tensors = build(graph);
    executor_->place(graph);
    entries_.push_front({key, executor_->generation(), std::move(graph), tensors});
    return entries_.front().tensors;
  }

  // Runs the graph that get() returned last.
  void run() { executor_->compute(entries_.front().graph); }

  void clear() { entries_.clear(); }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    GraphKey key;
    uint64_t generation;
    Graph graph;
    Tensors tensors;
  };

  std::shared_ptr<Executor> executor_;
  size_t max_nodes_;
  size_t capacity_;
  std::list<Entry> entries_;
};

}  // namespace omni
