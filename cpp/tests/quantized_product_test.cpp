// tests/quantized_product_test.cpp - products of quantised weights against sums in double.
#include "kernels/quantized_product.h"

#include <cmath>
#include <limits>
#include <vector>

#include "base/gguf_builder.h"
#include "base/graph.h"
#include "base/random.h"
#include "kernels/linear.h"
#include "kernels/quantized_block.h"
#include "kernels/quantized_targets.h"
#include <gtest/gtest.h>

namespace omni {
namespace {

std::vector<float> normals(int64_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = random.normal();
  return out;
}

struct TestMatrix {
  TestMatrix(ggml_type kind, int64_t in_, int64_t rows_)
      : type(kind), in(in_), rows(rows_), bytes(ggml_row_size(type, in) * static_cast<size_t>(rows)) {
    // Rows of different sizes, so that a mistaken row shows.
    std::vector<float> made = normals(in * rows, 1);
    for (size_t i = 0; i < made.size(); ++i)
      made[i] *= 1.0F + static_cast<float>(i / static_cast<size_t>(in) % 7);
    ggml_quantize_chunk(type, made.data(), bytes.data(), 0, rows, in, nullptr);
    values.resize(made.size());
    ggml_get_type_traits(type)->to_float(bytes.data(), values.data(), in * rows);
  }

  ggml_type type;
  int64_t in;
  int64_t rows;
  std::vector<uint8_t> bytes;
  std::vector<float> values;  // what the bytes stand for
};

// One output and the root of the sum of squares of its terms, in double.
struct Exact {
  double value = 0;
  double size = 0;
};

Exact exact_product(const TestMatrix& w, int64_t row, const float* x) {
  Exact e;
  for (int64_t i = 0; i < w.in; ++i) {
    const double term = double(w.values[static_cast<size_t>(row * w.in + i)]) * x[i];
    e.value += term;
    e.size += term * term;
  }
  e.size = std::sqrt(e.size);
  return e;
}

constexpr ggml_type kTypes[] = {GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K};

#ifdef OMNI_HAS_QUANTIZED_KERNELS

struct Target {
  const char* name;
  void (*multiply)(const quantized::Product&);
  void (*quantize)(const float*, quantized::Activations&);
  void (*quantize_without_sign)(const float*, quantized::Activations&);
};

std::vector<Target> targets() {
  std::vector<Target> out;
  using quantized::Sign;
  if (has_avx2()) {
    out.push_back({"avx2", lanes8::multiply, lanes8::quantize_activations<Sign::with>,
                   lanes8::quantize_activations<Sign::without>});
  }
  if (has_vnni()) {
    out.push_back({"vnni", lanes16::multiply, lanes16::quantize_activations<Sign::with>,
                   lanes16::quantize_activations<Sign::without>});
  }
  return out;
}

constexpr quantized::Format format_of(ggml_type type) {
  return type == GGML_TYPE_Q4_K   ? quantized::Format::q4_k
         : type == GGML_TYPE_Q5_K ? quantized::Format::q5_k
                                  : quantized::Format::q6_k;
}

TEST(QuantizedProduct, ActivationsAreRoundedToTheNearest) {
  std::vector<float> x = normals(quantized::kBlock, 3);
  x[7] = -9;
  for (const Target& target : targets()) {
    quantized::Activations with;
    quantized::Activations without;
    target.quantize(x.data(), with);
    target.quantize_without_sign(x.data(), without);
    EXPECT_FLOAT_EQ(with.scale, 9.0F / 127) << target.name;
    for (size_t i = 0; i < x.size(); ++i) {
      const int q = static_cast<int8_t>(with.q[i]);
      // Half a step, and what the quotient itself is rounded by.
      EXPECT_NEAR(static_cast<double>(with.scale) * q, x[i], with.scale * 0.50002)
          << target.name << ", " << i;
      EXPECT_EQ(without.q[i], q + 128) << target.name << ", " << i;
    }
    for (size_t part = 0; part < 8; ++part) {
      int sum = 0;
      for (size_t i = 0; i < 32; ++i) sum += static_cast<int8_t>(with.q[part * 32 + i]);
      EXPECT_EQ(with.sums[part], static_cast<float>(sum)) << target.name;
    }
  }
}

TEST(QuantizedProduct, NothingAndNearlyNothingAreZero) {
  for (const float value : {0.0F, -0.0F, 1e-40F, -1e-31F}) {
    const std::vector<float> x(quantized::kBlock, value);
    for (const Target& target : targets()) {
      quantized::Activations a;
      target.quantize(x.data(), a);
      EXPECT_EQ(a.scale, 0) << target.name;
      for (const uint8_t q : a.q) EXPECT_EQ(q, 0);
    }
  }
}

// Every instruction set, rows and columns that leave every remainder, against the same rounded activations.
TEST(QuantizedProduct, EveryTargetEqualsItsSum) {
  struct Case {
    int64_t in, rows, n;
  };
  std::vector<Case> cases;
  for (int64_t i = 1; i <= 33; ++i) cases.push_back({256, i, 34 - i});
  cases.push_back({768, 37, 300});  // more columns than are held at once
  for (const ggml_type type : kTypes) {
    for (const Case& c : cases) {
      const TestMatrix w(type, c.in, c.rows);
      const std::vector<float> x = normals(c.in * c.n, 2);
      const int64_t blocks = c.in / quantized::kBlock;
      const quantized::Format format = format_of(type);
      const bool with_sign = sign_for(format) == quantized::Sign::with;
      for (const Target& target : targets()) {
        std::vector<quantized::Activations> a(static_cast<size_t>(blocks * c.n));
        std::vector<float> rounded(x.size());
        for (int64_t b = 0; b < blocks; ++b) {
          for (int64_t column = 0; column < c.n; ++column) {
            quantized::Activations& to = a[static_cast<size_t>(b * c.n + column)];
            const int64_t first = column * c.in + b * quantized::kBlock;
            (with_sign ? target.quantize : target.quantize_without_sign)(x.data() + first, to);
            for (int64_t i = 0; i < quantized::kBlock; ++i) {
              const int q = with_sign ? static_cast<int8_t>(to.q[i]) : to.q[i] - 128;
              rounded[static_cast<size_t>(first + i)] = to.scale * static_cast<float>(q);
            }
          }
        }
        constexpr float kUntouched = -12345;
        std::vector<float> out(static_cast<size_t>(c.rows * c.n), kUntouched);
        quantized::Product p{};
        p.weights = {format, w.bytes.data(), ggml_row_size(type, c.in), c.in, c.rows};
        p.x = a.data();
        p.n = c.n;
        p.out = out.data();
        // In two parts, as two threads would.
        p.first = 0;
        p.last = c.rows / 2;
        target.multiply(p);
        if (p.last < c.rows) EXPECT_EQ(out[static_cast<size_t>(p.last)], kUntouched) << target.name;
        p.first = p.last;
        p.last = c.rows;
        target.multiply(p);
        for (int64_t column = 0; column < c.n; ++column) {
          for (int64_t row = 0; row < c.rows; ++row) {
            const Exact e = exact_product(w, row, rounded.data() + column * c.in);
            // Sums in float of at most 16 parts a block, of weights that were shifted by up to 128 / 127 of
            // the largest activation: some roundings of 2^-24 of ten times the terms.
            ASSERT_NEAR(out[static_cast<size_t>(column * c.rows + row)], e.value, 1e-5 * e.size)
                << target.name << " " << ggml_type_name(type) << " " << c.in << "x" << c.rows << "x" << c.n
                << ", column " << column << ", row " << row;
          }
        }
      }
    }
  }
}

// One and two columns, rows that leave every remainder.
TEST(QuantizedProduct, FewColumnsEqualTheirSum) {
  if (!has_vnni()) GTEST_SKIP() << "no kernel for this processor";
  for (const ggml_type type : {GGML_TYPE_Q4_K, GGML_TYPE_Q6_K}) {
    for (const int64_t rows : {1, 2, 3, 4, 5, 23}) {
      for (const int64_t n : {1, 2}) {
        constexpr int64_t kBlocks = 3;
        constexpr int64_t kIn = kBlocks * quantized::kBlock;
        const TestMatrix w(type, kIn, rows);
        const std::vector<float> x = normals(kIn * n, 2);
        std::vector<quantized::Column> columns(static_cast<size_t>(kBlocks * n));
        std::vector<float> rounded;
        for (size_t i = 0; i < columns.size(); ++i) {
          quantized::Column& to = columns[i];
          lanes16::quantize_column(x.data() + i * quantized::kBlock, to);
          for (const uint8_t q : to.q)
            rounded.push_back(to.scale * static_cast<float>(static_cast<int8_t>(q)));
          for (size_t part = 0; part < 16; ++part) {
            int sum = 0;
            for (size_t j = 0; j < 16; ++j) sum += static_cast<int8_t>(to.q[part * 16 + j]);
            EXPECT_EQ(to.sums[part], sum);
          }
        }
        std::vector<float> out(static_cast<size_t>(rows * n));
        quantized::FewProduct p{};
        p.weights = {format_of(type), w.bytes.data(), ggml_row_size(type, kIn), kIn, rows};
        p.x = columns.data();
        p.n = n;
        p.out = out.data();
        p.last = rows / 2;
        lanes16::multiply_few(p);
        p.first = p.last;
        p.last = rows;
        lanes16::multiply_few(p);
        for (int64_t column = 0; column < n; ++column) {
          for (int64_t row = 0; row < rows; ++row) {
            const Exact e = exact_product(w, row, rounded.data() + column * kIn);
            ASSERT_NEAR(out[static_cast<size_t>(column * rows + row)], e.value, 1e-5 * e.size)
                << ggml_type_name(type) << " " << rows << "x" << n << ", column " << column << ", row "
                << row;
          }
        }
      }
    }
  }
}

#endif  // OMNI_HAS_QUANTIZED_KERNELS

// As operators of a graph, for every device, thread count and shape of the activations.
TEST(QuantizedProduct, LinearIsWithinTheRoundingOfActivations) {
  struct Tensors {
    ggml_tensor* x;
    ggml_tensor* y;
  };
  constexpr int64_t kIn = 512;
  constexpr int64_t kRows = 45;
  for (const ggml_type type : kTypes) {
    const TestMatrix w(type, kIn, kRows);
    for (const int threads : {1, 3}) {
      const auto device = std::make_shared<Device>(DeviceOptions{.n_threads = threads});
      const auto executor = std::make_shared<Executor>(device);
      const ContextPtr context(ggml_init({2 * ggml_tensor_overhead(), nullptr, true}));
      ggml_tensor* weights = ggml_new_tensor_2d(context.get(), type, kIn, kRows);
      const BufferPtr buffer(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), device->buffer_type()));
      ggml_backend_tensor_set(weights, w.bytes.data(), 0, w.bytes.size());
      for (const int64_t n : {1, 2, 3, 20, 70}) {
        GraphCache<Tensors> graphs(executor, 16);
        const Tensors t = graphs.get({}, [&](Graph& g) {
          Tensors made{};
          // Rows that do not follow one another, and a third dimension.
          made.x = g.input(GGML_TYPE_F32, {kIn + 32, n, 2}, "x");
          ggml_tensor* part =
              ggml_view_3d(g.ctx(), made.x, kIn, n, 2, made.x->nb[1], made.x->nb[2], 16 * sizeof(float));
          made.y = g.output(linear(g.ctx(), {weights, nullptr}, part), "y");
          return made;
        });
        const std::vector<float> x = normals(ggml_nelements(t.x), 5);
        executor->set<float>(t.x, x);
        graphs.run();
        ASSERT_EQ(ggml_nelements(t.y), kRows * n * 2);
        std::vector<float> y(static_cast<size_t>(ggml_nelements(t.y)));
        executor->get<float>(t.y, std::span(y));
        double error = 0;
        double size = 0;
        for (int64_t column = 0; column < 2 * n; ++column) {
          for (int64_t row = 0; row < kRows; ++row) {
            const Exact e = exact_product(w, row, x.data() + column * (kIn + 32) + 16);
            const double difference = y[static_cast<size_t>(column * kRows + row)] - e.value;
            error += difference * difference;
            size += e.size * e.size;
          }
        }
        // 256 normal numbers reach about 3 times their mean, so a step is 3 / 127 and its rounding 0.29 of
        // that.
        EXPECT_LT(std::sqrt(error / size), 0.29 * 3.5 / 127)
            << ggml_type_name(type) << ", " << n << " columns";
      }
    }
  }
}

#ifdef OMNI_HAS_QUANTIZED_KERNELS

// Weights stay in the file, and the kernels above multiply them.
TEST(QuantizedProduct, TakesMappedWeights) {
  if (!has_avx2()) GTEST_SKIP() << "no kernel for this processor";
  for (const ggml_type type : kTypes) {
    GgufBuilder builder;
    builder.set("general.architecture", std::string("test"));
    builder.tensor("layer.weight", type, {256, 32});
    const auto file = builder.build("test", [](const GgufTensor& t, uint8_t* data) {
      const std::vector<float> values = normals(t.elements(), 1);
      ggml_quantize_chunk(t.type, values.data(), data, 0, t.ne[1], t.ne[0], nullptr);
    });
    Weights weights(file, std::make_shared<Device>(DeviceOptions{.n_threads = 1}));
    const Linear layer = load_linear(weights, "layer", 256, 32, Bias::none);
    weights.load();
    EXPECT_EQ(weights.copied_bytes(), 0U);
    EXPECT_EQ(layer.weight->data, static_cast<const void*>(file->tensor("layer.weight").data));
    const Graph g(16);
    for (const int64_t n : {1, 2, 3, 64}) {
      const ggml_tensor* y = linear(g.ctx(), layer, g.input(GGML_TYPE_F32, {256, n}, "x"));
      const bool ours = n > 2 || (has_vnni() && type != GGML_TYPE_Q5_K);
      EXPECT_EQ(y->op, ours ? GGML_OP_CUSTOM : GGML_OP_MUL_MAT) << ggml_type_name(type) << ", " << n;
    }
  }
}

#endif  // OMNI_HAS_QUANTIZED_KERNELS

}  // namespace
}  // namespace omni
