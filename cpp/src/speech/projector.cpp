// speech/projector.cpp - two dense layers and a normalisation, in batches of one size.
#include "speech/projector.h"

#include "omni/error.h"

#include <algorithm>
#include <cmath>

namespace omni {

Projector::Projector(std::shared_ptr<const GgufFile> file, const std::string& prefix, int64_t width,
                     std::shared_ptr<Executor> executor, const LinearPolicy& policy)
    : weights_(std::move(file), std::shared_ptr<Device>(executor, &executor->device())),
      executor_(std::move(executor)),
      graphs_(executor_, 32, 1) {
  const GgufTensor& first = weights_.file().tensor(prefix + "linear1.weight");
  require(first.n_dims == 2 && first.ne[1] == width, ErrorCode::format, weights_.file().path(), ": tensor '",
          prefix, "linear1.weight' has shape ", shape_text(first.ne), ", but the speech model needs [D, ",
          width, "]: the projector belongs to another model");
  first_ = load_linear(weights_, prefix + "linear1", first.ne[0], width, Bias::required, policy);
  second_ = load_linear(weights_, prefix + "linear2", width, width, Bias::required, policy);
  weights_.load();
  input_.resize(static_cast<size_t>(kRows * input_width()));
  output_.resize(static_cast<size_t>(kRows * width));
}

void Projector::add(std::span<const float> hidden, std::span<float> rows) {
  const auto in = static_cast<size_t>(input_width());
  const auto out = static_cast<size_t>(width());
  const std::lock_guard lock(executor_->mutex());
  for (size_t n = rows.size() / out, start = 0; start < n; start += kRows) {
    const size_t count = std::min<size_t>(kRows, n - start);
    add_some(hidden.subspan(start * in, count * in), rows.subspan(start * out, count * out));
  }
}

void Projector::add_some(std::span<const float> hidden, std::span<float> rows) {
  Tensors& t = graphs_.get({}, [this](Graph& g) {
    Tensors made;
    made.hidden = g.input(GGML_TYPE_F32, {input_width(), kRows}, "hidden");
    ggml_tensor* x = ggml_relu(g.ctx(), linear(g.ctx(), first_, made.hidden));
    made.projected = g.output(linear(g.ctx(), second_, x), "projected");
    return made;
  });
  std::fill(std::copy(hidden.begin(), hidden.end(), input_.begin()), input_.end(), 0.0F);
  executor_->set<float>(t.hidden, input_);
  graphs_.run();
  executor_->get<float>(t.projected, std::span(output_));
  const auto out = static_cast<size_t>(width());
  for (size_t start = 0; start < rows.size(); start += out) {
    const std::span<const float> p = std::span<const float>(output_).subspan(start, out);
    double square = 0;
    for (const float v : p) square += static_cast<double>(v) * v;
    require(std::isfinite(square), ErrorCode::invalid_argument,
            "a hidden state is too large to be projected; is it the state after the final norm?");
    const auto scale = static_cast<float>(1.0 / std::max(std::sqrt(square), 1e-12));
    for (size_t i = 0; i < out; ++i) rows[start + i] += p[i] * scale;
  }
}

}  // namespace omni
