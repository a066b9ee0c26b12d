// kernels/linear.cpp - choosing the form of a weight, and the product itself.
#include "kernels/linear.h"

#include "omni/error.h"

#include <algorithm>
#include <map>

#include "kernels/gelu.h"
#include "kernels/panels.h"
#include "kernels/quantized_product.h"

namespace omni {
namespace {

// Whether `device` multiplies weights [in, out] of `type` that lie in buffers of type `buffer`. ggml answers
// for a node, so one is made of tensors without data, with the weight pretending to lie there.
bool multiplies(const Device& device, ggml_type type, int64_t in, int64_t out,
                ggml_backend_buffer_type_t buffer) {
  const ContextPtr context(ggml_init({8 * ggml_tensor_overhead(), nullptr, true}));
  ggml_tensor* w = ggml_new_tensor_2d(context.get(), type, in, out);
  ggml_tensor* x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, in, 512);
  const BufferPtr empty(ggml_backend_buft_alloc_buffer(buffer, 0));
  if (empty == nullptr) return false;
  w->buffer = empty.get();
  return ggml_backend_dev_supports_op(device.handle(), ggml_mul_mat(context.get(), w, x));
}

// The repacking buffer type that takes this weight, or null.
ggml_backend_buffer_type_t repack_type(const Device& device, ggml_type type, int64_t in, int64_t out) {
  for (ggml_backend_buffer_type_t buffer : device.repack_types()) {
    if (multiplies(device, type, in, out, buffer)) return buffer;
  }
  return nullptr;
}

ggml_type held_type(const Device& device, ggml_type stored, int64_t in, WeightFormat format) {
  const bool is_float = stored == GGML_TYPE_F32 || stored == GGML_TYPE_F16 || stored == GGML_TYPE_BF16;
  if (!is_float) return stored;
  switch (format) {
    case WeightFormat::bf16:
      // Without native BF16 products the conversion would only lose precision.
      return device.is_host() && !device.has_feature("AVX512_BF16") ? stored : GGML_TYPE_BF16;
    case WeightFormat::automatic:
      return stored == GGML_TYPE_F16 && device.is_host() && device.has_feature("AVX512_BF16") ? GGML_TYPE_BF16
                                                                                              : stored;
    case WeightFormat::q8_0:
      return in % ggml_blck_size(GGML_TYPE_Q8_0) == 0 ? GGML_TYPE_Q8_0 : stored;
    default:
      return stored;
  }
}

// Writes the rows of a tensor of the file, `row` elements apart; what lies between stays zero.
std::function<void(float*)> zero_padded(const GgufFile& file, const GgufTensor& source, int64_t row) {
  return [&file, &source, row](float* out) {
    std::vector<float> scratch;
    const size_t size = ggml_row_size(source.type, source.ne[0]);
    for (int64_t r = 0; r < source.elements() / source.ne[0]; ++r) {
      convert_elements(source.type, source.data + static_cast<size_t>(r) * size, GGML_TYPE_F32, out + r * row,
                       source.ne[0], scratch);
    }
    file.drop_pages(source);
  };
}

}  // namespace

WeightFormat parse_weight_format(const std::string& name) {
  if (name == "stored") return WeightFormat::stored;
  if (name == "bf16") return WeightFormat::bf16;
  if (name == "q8_0") return WeightFormat::q8_0;
  if (name == "auto") return WeightFormat::automatic;
  fail(ErrorCode::invalid_argument, "weight format '", name, "' is none of auto, stored, bf16, q8_0");
}

ggml_tensor* load_matrix(Weights& weights, const std::string& name, int64_t in, int64_t out,
                         const LinearPolicy& policy) {
  const GgufTensor& source = weights.file().tensor(name, {in, out});
  const Device& device = weights.device();
  const ggml_type type = held_type(device, source.type, in, policy.format);
  const bool repacks = policy.repack && !keeps_quantized(device, type);
  ggml_backend_buffer_type_t repack = repacks ? repack_type(device, type, in, out) : nullptr;
  if (repack == nullptr && type == source.type) return weights.tensor(name, {in, out});
  return weights.placed(name, {in, out}, type, repack);
}

ggml_tensor* load_computed_matrix(Weights& weights, const std::string& name, int64_t in, int64_t out,
                                  ggml_type stored, std::function<void(float*)> fill,
                                  const LinearPolicy& policy) {
  const Device& device = weights.device();
  const ggml_type type = held_type(device, stored, in, policy.format);
  ggml_backend_buffer_type_t repack = policy.repack ? repack_type(device, type, in, out) : nullptr;
  return weights.computed(name, {in, out}, std::move(fill), type, repack);
}

ggml_type Linear::input_type() const {
  return outputs_in_panels != 0 ? panels::input_type() : GGML_TYPE_F32;
}

bool in_panels(const Device& device, ggml_type stored, int64_t in, const LinearPolicy& policy) {
  const bool is_float = stored == GGML_TYPE_F32 || stored == GGML_TYPE_F16 || stored == GGML_TYPE_BF16;
  const bool wanted = policy.format == WeightFormat::bf16 || policy.format == WeightFormat::automatic;
  return policy.panels && wanted && is_float && in % 2 == 0 && panels::available(device);
}

Linear load_computed_linear(Weights& weights, const std::string& name, int64_t in, int64_t out,
                            ggml_type stored, std::function<void(float*)> fill, ggml_tensor* bias,
                            const LinearPolicy& policy) {
  Linear layer;
  layer.bias = bias;
  if (!in_panels(weights.device(), stored, in, policy)) {
    layer.weight = load_computed_matrix(weights, name, in, out, stored, std::move(fill), policy);
    return layer;
  }
  layer.outputs_in_panels = out;
  const auto pack = [in, out, fill = std::move(fill)](float* to) {
    std::vector<float> rows(static_cast<size_t>(in * out));
    fill(rows.data());
    panels::pack(rows.data(), in, out, to);
  };
  layer.weight = weights.computed(name, {in, panels::padded_outputs(out)}, pack, GGML_TYPE_BF16);
  return layer;
}

Linear load_joined_linear(Weights& weights, std::span<const std::string> names, int64_t in, int64_t out_each,
                          const LinearPolicy& policy) {
  const GgufFile& file = weights.file();
  const std::vector<std::string> parts(names.begin(), names.end());
  // Writes all parts of a kind under each other.
  const auto join = [&file, parts](const char* kind) {
    return [&file, parts, kind](float* to) {
      for (const std::string& part : parts) {
        const GgufTensor& source = file.tensor(part + kind);
        read_floats(source, to);
        to += source.elements();
        file.drop_pages(source);
      }
    };
  };
  for (const std::string& part : parts) {
    file.tensor(part + ".weight", {in, out_each});
    file.tensor(part + ".bias", {out_each});
  }
  const int64_t out = out_each * static_cast<int64_t>(parts.size());
  ggml_tensor* bias = weights.computed(parts[0] + ".joined_bias", {out}, join(".bias"));
  return load_computed_linear(weights, parts[0] + ".joined_weight", in, out,
                              file.tensor(parts[0] + ".weight").type, join(".weight"), bias, policy);
}

Linear load_linear(Weights& weights, const std::string& name, int64_t in, int64_t out, Bias bias,
                   const LinearPolicy& policy) {
  const GgufTensor& source = weights.file().tensor(name + ".weight", {in, out});
  if (in_panels(weights.device(), source.type, in, policy)) {
    const auto fill = [&file = weights.file(), &source](float* to) {
      read_floats(source, to);
      file.drop_pages(source);
    };
    return load_computed_linear(weights, name + ".panels", in, out, source.type, fill,
                                bias == Bias::required ? weights.f32(name + ".bias", {out}) : nullptr,
                                policy);
  }
  Linear layer;
  layer.weight = load_matrix(weights, name + ".weight", in, out, policy);
  if (bias == Bias::required) layer.bias = weights.f32(name + ".bias", {out});
  return layer;
}

int64_t fast_row_length(const Weights& weights, const std::string& name, int64_t in,
                        const LinearPolicy& policy) {
  constexpr int64_t kBlock = 32;
  const int64_t padded = (in + kBlock - 1) / kBlock * kBlock;
  const ggml_type stored = weights.file().tensor(name + ".weight").type;
  const ggml_type held = held_type(weights.device(), stored, padded, policy.format);
  const bool in_blocks = held == GGML_TYPE_Q8_0 || (held == GGML_TYPE_BF16 && weights.device().is_host());
  return in_blocks ? padded : in;
}

Linear load_padded_linear(Weights& weights, const std::string& name, int64_t in, int64_t out,
                          int64_t padded_in, int64_t padded_out, Bias bias, const LinearPolicy& policy) {
  if (padded_in == in && padded_out == out) return load_linear(weights, name, in, out, bias, policy);
  const std::string weight = name + ".weight";
  const Device& device = weights.device();
  const ggml_type type =
      held_type(device, weights.file().tensor(weight, {in, out}).type, padded_in, policy.format);
  ggml_backend_buffer_type_t repack =
      policy.repack ? repack_type(device, type, padded_in, padded_out) : nullptr;
  Linear layer;
  layer.weight =
      weights.computed(weight, {padded_in, padded_out},
                       zero_padded(weights.file(), weights.file().tensor(weight), padded_in), type, repack);
  if (bias == Bias::required) {
    const GgufTensor& values = weights.file().tensor(name + ".bias", {out});
    layer.bias = padded_out == out ? weights.f32(name + ".bias", {out})
                                   : weights.computed(name + ".bias", {padded_out},
                                                      zero_padded(weights.file(), values, out));
  }
  return layer;
}

MatrixTotals total(std::span<const ggml_tensor* const> matrices) {
  MatrixTotals out;
  std::map<std::string, uint64_t> bytes_of;
  for (const ggml_tensor* m : matrices) {
    out.parameters += static_cast<uint64_t>(ggml_nelements(m));
    out.bytes += ggml_nbytes(m);
    bytes_of[ggml_type_name(m->type)] += ggml_nbytes(m);
  }
  uint64_t most = 0;
  for (const auto& [type, bytes] : bytes_of) {
    if (bytes > most) out.type = type;
    most = std::max(most, bytes);
  }
  return out;
}

namespace {

ggml_tensor* by_panels(ggml_context* ctx, const Linear& layer, ggml_tensor* x,
                       const panels::After& after = {}) {
  return panels::multiply(ctx, {layer.weight, layer.bias, layer.outputs_in_panels}, x, after);
}

}  // namespace

ggml_tensor* linear(ggml_context* ctx, const Linear& layer, ggml_tensor* x) {
  if (layer.outputs_in_panels != 0) return by_panels(ctx, layer, x);
  ggml_tensor* y = quantized_product(ctx, layer.weight, x);
  if (y == nullptr) y = ggml_mul_mat(ctx, layer.weight, x);
  return layer.bias == nullptr ? y : ggml_add(ctx, y, layer.bias);
}

ggml_tensor* linear_gelu(ggml_context* ctx, const Device& device, const Linear& layer, ggml_tensor* x) {
  if (layer.outputs_in_panels != 0) return by_panels(ctx, layer, x, {.gelu = true});
  return gelu_tanh(ctx, device, linear(ctx, {layer.weight}, x), layer.bias);
}

ggml_tensor* linear_onto(ggml_context* ctx, const Linear& layer, ggml_tensor* x, ggml_tensor* to,
                         ggml_tensor* gate) {
  if (layer.outputs_in_panels != 0) return by_panels(ctx, layer, x, {.gate = gate, .residual = to});
  ggml_tensor* y = linear(ctx, layer, x);
  return ggml_add(ctx, to, gate == nullptr ? y : ggml_mul(ctx, y, gate));
}

}  // namespace omni
