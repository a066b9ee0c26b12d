// token2wav/stages.h - values inside a network, for tests that compare stage by stage.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/graph.h"

namespace omni {

// Values by name: what a graph computed at the places that it was asked to keep.
using StageValues = std::map<std::string, std::vector<float>>;

// The places of one graph. Inactive ones cost nothing.
class Stages {
 public:
  explicit Stages(bool active = false) : active_(active) {}

  void keep(const Graph& g, ggml_tensor* tensor, const std::string& name) {
    if (!active_) return;
    ggml_tensor* copy = ggml_cont(g.ctx(), tensor);
    kept_.emplace_back(name, g.output(copy, name.c_str()));
  }
  void read(const Executor& executor, StageValues& values) const {
    for (const auto& [name, tensor] : kept_) {
      std::vector<float>& out = values[name];
      out.resize(static_cast<size_t>(ggml_nelements(tensor)));
      executor.get<float>(tensor, out);
    }
  }

 private:
  bool active_;
  std::vector<std::pair<std::string, ggml_tensor*>> kept_;
};

}  // namespace omni
