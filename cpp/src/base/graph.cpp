// base/graph.cpp - building, placing and running graphs.
#include "base/graph.h"

#include "omni/error.h"

namespace omni {

Graph::Graph(size_t max_nodes) {
  const size_t size = ggml_tensor_overhead() * (2 * max_nodes) + ggml_graph_overhead_custom(max_nodes, false);
  context_.reset(ggml_init({size, nullptr, true}));
  require(context_ != nullptr, ErrorCode::out_of_memory, "no memory for a compute graph");
  graph_ = ggml_new_graph_custom(context_.get(), max_nodes, false);
}

ggml_tensor* Graph::input(ggml_type type, std::initializer_list<int64_t> ne, const char* name) const {
  ggml_tensor* t = ggml_new_tensor(ctx(), type, static_cast<int>(ne.size()), ne.begin());
  ggml_set_name(t, name);
  ggml_set_input(t);
  return t;
}

ggml_tensor* Graph::output(ggml_tensor* tensor, const char* name) const {
  ggml_set_name(tensor, name);
  ggml_set_output(tensor);
  ggml_build_forward_expand(graph_, tensor);
  return tensor;
}

void Graph::effect(ggml_tensor* tensor) const {
  ggml_build_forward_expand(graph_, tensor);
}

Executor::Executor(std::shared_ptr<Device> device) : device_(std::move(device)) {
  allocator_.reset(ggml_gallocr_new(device_->buffer_type()));
  require(allocator_ != nullptr, ErrorCode::out_of_memory, "no memory for the graph allocator");
}

bool Executor::runs_alone(const Graph& graph) const {
  if (device_->is_host()) return true;
  for (int i = 0; i < ggml_graph_n_nodes(graph.nodes()); ++i) {
    if (!ggml_backend_supports_op(device_->backend(), ggml_graph_node(graph.nodes(), i))) return false;
  }
  return true;
}

void Executor::place(const Graph& graph) {
  const auto check = [](bool placed) {
    require(placed, ErrorCode::out_of_memory,
            "not enough memory for the computation; use a smaller context, batch or input");
  };
  if (scheduler_ == nullptr && runs_alone(graph)) {
    // Reserving plans this very graph; it moves the buffer only if it must grow.
    const size_t before = buffer_size();
    check(ggml_gallocr_reserve(allocator_.get(), graph.nodes()));
    if (buffer_size() != before) ++generation_;
    check(ggml_gallocr_alloc_graph(allocator_.get(), graph.nodes()));
    return;
  }
  const size_t needed = static_cast<size_t>(ggml_graph_size(graph.nodes()));
  if (scheduler_ == nullptr || scheduler_nodes_ < needed) {
    ggml_backend_t backends[2] = {device_->backend(), device_->host_backend()};
    scheduler_.reset(ggml_backend_sched_new(backends, nullptr, 2, needed, false, true));
    require(scheduler_ != nullptr, ErrorCode::out_of_memory, "no memory for the scheduler");
    scheduler_nodes_ = needed;
  }
  // The scheduler holds one graph at a time, so every earlier one is stale now.
  ++generation_;
  ggml_backend_sched_reset(scheduler_.get());
  check(ggml_backend_sched_alloc_graph(scheduler_.get(), graph.nodes()));
  scheduled_ = graph.nodes();
}

void Executor::compute(const Graph& graph) {
  const ggml_status status = scheduled_ == graph.nodes()
                                 ? ggml_backend_sched_graph_compute(scheduler_.get(), graph.nodes())
                                 : ggml_backend_graph_compute(device_->backend(), graph.nodes());
  switch (status) {
    case GGML_STATUS_SUCCESS:
      return;
    case GGML_STATUS_ALLOC_FAILED:
      fail(ErrorCode::out_of_memory, "device ", device_->name(), " ran out of memory while computing");
    case GGML_STATUS_ABORTED:
      fail(ErrorCode::cancelled, "the computation was stopped");
    default:
      fail(ErrorCode::device, "device ", device_->name(), " failed while computing; was it lost?");
  }
}

size_t Executor::buffer_size() const {
  return ggml_gallocr_get_buffer_size(allocator_.get(), 0);
}

void Executor::set_bytes(ggml_tensor* input, const void* data, size_t size) const {
  require(size == ggml_nbytes(input), ErrorCode::internal, "input ", ggml_get_name(input), " takes ",
          ggml_nbytes(input), " bytes, got ", size);
  ggml_backend_tensor_set(input, data, 0, size);
}

void Executor::get_bytes(const ggml_tensor* output, void* data, size_t offset, size_t size) const {
  require(offset + size <= ggml_nbytes(output), ErrorCode::internal, "output ", ggml_get_name(output),
          " has ", ggml_nbytes(output), " bytes, asked for ", offset + size);
  ggml_backend_tensor_get(output, data, offset, size);
}

void copy_tensors(ggml_context& from, ggml_context& to) {
  ggml_tensor* target = ggml_get_first_tensor(&to);
  for (ggml_tensor* source = ggml_get_first_tensor(&from); source != nullptr;
       source = ggml_get_next_tensor(&from, source)) {
    require(target != nullptr && source->type == target->type && ggml_are_same_shape(source, target),
            ErrorCode::internal, "states of different layouts can't be copied");
    ggml_backend_tensor_copy(source, target);
    target = ggml_get_next_tensor(&to, target);
  }
}

}  // namespace omni
