// kernels/linear.cpp - choosing the form of a weight, and the product itself.
#include "kernels/linear.h"

#include "omni/error.h"

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
    case WeightFormat::q8_0:
      return in % ggml_blck_size(GGML_TYPE_Q8_0) == 0 ? GGML_TYPE_Q8_0 : stored;
    default:
      return stored;
  }
}

}  // namespace

WeightFormat parse_weight_format(const std::string& name) {
  if (name == "stored") return WeightFormat::stored;
  if (name == "bf16") return WeightFormat::bf16;
  if (name == "q8_0") return WeightFormat::q8_0;
  fail(ErrorCode::invalid_argument, "weight format '", name, "' is none of stored, bf16, q8_0");
}

ggml_tensor* load_matrix(Weights& weights, const std::string& name, int64_t in, int64_t out,
                         const LinearPolicy& policy) {
  const GgufTensor& source = weights.file().tensor(name, {in, out});
  const Device& device = weights.device();
  const ggml_type type = held_type(device, source.type, in, policy.format);
  ggml_backend_buffer_type_t repack = policy.repack ? repack_type(device, type, in, out) : nullptr;
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

Linear load_linear(Weights& weights, const std::string& name, int64_t in, int64_t out, Bias bias,
                   const LinearPolicy& policy) {
  Linear layer;
  layer.weight = load_matrix(weights, name + ".weight", in, out, policy);
  if (bias == Bias::required) layer.bias = weights.f32(name + ".bias", {out});
  return layer;
}

ggml_tensor* linear(ggml_context* ctx, const Linear& layer, ggml_tensor* x) {
  ggml_tensor* y = ggml_mul_mat(ctx, layer.weight, x);
  return layer.bias == nullptr ? y : ggml_add(ctx, y, layer.bias);
}

}  // namespace omni
