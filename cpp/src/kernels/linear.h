// kernels/linear.h - the single door for every matrix product with weights.
//
// load_linear() decides, by weight type, device and policy, in which form the weight is held: as mapped,
// converted, or repacked for faster kernels. linear() adds the product to a graph. Kernels of our own plug in
// here.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/weights.h"

namespace omni {

// A dense layer y = W x + b. `weight` is [in, out], `bias` [out] (F32) or null.
struct Linear {
  ggml_tensor* weight = nullptr;
  ggml_tensor* bias = nullptr;
  // If the weight is held in panels (kernels/panels.h): how many outputs there are. Such a weight is only for
  // the functions below.
  int64_t outputs_in_panels = 0;

  // What products read without converting it.
  ggml_type input_type() const;
};

// In which form weights are held.
enum class WeightFormat {
  stored,  // as in the file
  bf16,    // F16 and F32 weights as BF16, where the processor multiplies BF16 natively
  q8_0,    // F16, BF16 and F32 weights as Q8_0
  // F16 weights as BF16 where the processor multiplies BF16 natively, else as in the file. F16 holds three
  // more bits, but the products run at nearly twice the speed.
  automatic,
};

struct LinearPolicy {
  WeightFormat format = WeightFormat::stored;
  bool repack = true;  // use ggml's repacked layouts where they exist for the type and the processor
  // Weights that are converted to BF16 are held in panels where that can be; `automatic` then converts F32
  // weights, too, and on every processor.
  bool panels = false;
};

WeightFormat parse_weight_format(
    const std::string& name);  // "stored", "bf16", "q8_0", "auto"; throws Error(invalid_argument)

enum class Bias { none, required };

// Declares weight `name`.weight [in, out] and, if asked for, `name`.bias [out].
Linear load_linear(Weights& weights, const std::string& name, int64_t in, int64_t out, Bias bias,
                   const LinearPolicy& policy = {});

// The length that rows of weight `name`.weight [in, ...] should be padded to, so that the form in which it
// will be held has fast kernels: blocks of 32 for BF16 and Q8_0, else `in`.
int64_t fast_row_length(const Weights& weights, const std::string& name, int64_t in,
                        const LinearPolicy& policy);

// A layer held with zero columns and rows (and bias) added: [padded_in, padded_out]. Its inputs beyond `in`
// may hold any finite number; its outputs beyond `out` are zero.
Linear load_padded_linear(Weights& weights, const std::string& name, int64_t in, int64_t out,
                          int64_t padded_in, int64_t padded_out, Bias bias, const LinearPolicy& policy = {});

// A weight alone, under its full name.
ggml_tensor* load_matrix(Weights& weights, const std::string& name, int64_t in, int64_t out,
                         const LinearPolicy& policy = {});

// A matrix that the file holds in another form: `fill` writes it as F32 [in, out], of numbers that are stored
// as `stored`.
ggml_tensor* load_computed_matrix(Weights& weights, const std::string& name, int64_t in, int64_t out,
                                  ggml_type stored, std::function<void(float*)> fill,
                                  const LinearPolicy& policy = {});

// Elements and bytes of some matrices, and the type that most of the bytes have, by ggml's name.
struct MatrixTotals {
  uint64_t parameters = 0;
  uint64_t bytes = 0;
  std::string type;
};
MatrixTotals total(std::span<const ggml_tensor* const> matrices);

// Whether a float weight [in, ...] that is stored as `stored` is held in panels under this policy.
bool in_panels(const Device& device, ggml_type stored, int64_t in, const LinearPolicy& policy);

// A layer whose weight the file holds in another form: `fill` writes it as F32 [in, out]. Its bias is `bias`.
Linear load_computed_linear(Weights& weights, const std::string& name, int64_t in, int64_t out,
                            ggml_type stored, std::function<void(float*)> fill, ggml_tensor* bias,
                            const LinearPolicy& policy = {});

// Several layers with the same input as one: the rows of `names` under each other. All have a bias.
Linear load_joined_linear(Weights& weights, std::span<const std::string> names, int64_t in, int64_t out_each,
                          const LinearPolicy& policy = {});

// x [in, n, ...] F32 -> [out, n, ...] F32.
ggml_tensor* linear(ggml_context* ctx, const Linear& layer, ggml_tensor* x);

// GELU of the tanh form of linear().
ggml_tensor* linear_gelu(ggml_context* ctx, const Device& device, const Linear& layer, ggml_tensor* x);

// `to` + gate * linear(), with `gate` [out] or null; `to` [out, n, ...].
ggml_tensor* linear_onto(ggml_context* ctx, const Linear& layer, ggml_tensor* x, ggml_tensor* to,
                         ggml_tensor* gate);

}  // namespace omni
