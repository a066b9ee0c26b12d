// token2wav/cost.h - counting what products with weights take, for measurements.
#pragma once

#include "omni/token2wav.h"

#include "kernels/linear.h"

namespace omni {

// Adds one reading of `layer` and its products with `columns` columns.
inline void add_product(Token2WavCost& cost, const Linear& layer, int64_t columns) {
  cost.operations += 2.0 * static_cast<double>(ggml_nelements(layer.weight)) * static_cast<double>(columns);
  cost.bytes += static_cast<double>(ggml_nbytes(layer.weight));
}

}  // namespace omni
