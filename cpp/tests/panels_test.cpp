// tests/panels_test.cpp - products and attention in panels and what prepares their rows, on every instruction
// set that this machine has.
#include "kernels/panels.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/graph.h"
#include "base/random.h"
#include "kernels/panels_block.h"
#include "kernels/prepare.h"
#include <gtest/gtest.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define OMNI_WITH_BF16_DOT 1
#endif
#define OMNI_KERNEL_FILE "kernels/panels.inc"
#include "kernels/for_each_target.h"

namespace omni {
namespace {

float rounded(float x) {
  return std::bit_cast<float>(static_cast<uint32_t>(panels::to_bf16(x)) << 16);
}

// Numbers that BF16 holds, so that products differ from the formula by sums in float alone.
std::vector<float> numbers(int64_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = rounded(random.normal());
  return out;
}

std::vector<uint16_t> as_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (const float x : values) out.push_back(panels::to_bf16(x));
  return out;
}

double gelu_of(double z) {
  return 0.5 * z * (1 + std::tanh(std::sqrt(2 / 3.141592653589793) * (z + 0.044715 * z * z * z)));
}

struct Machine {
  explicit Machine(int threads) {
    DeviceOptions options;
    options.n_threads = threads;
    device = std::make_shared<Device>(options);
    executor = std::make_shared<Executor>(device);
  }
  std::shared_ptr<Device> device;
  std::shared_ptr<Executor> executor;
};

TEST(Panels, RoundToNearestEven) {
  EXPECT_EQ(rounded(1.0F), 1.0F);
  EXPECT_EQ(rounded(1.0F + 0x1p-8F), 1.0F);                    // a tie
  EXPECT_EQ(rounded(1.0F + 3 * 0x1p-8F), 1.0F + 4 * 0x1p-8F);  // the other tie
  EXPECT_EQ(rounded(-1.0F - 1.5F * 0x1p-8F), -1.0F - 2 * 0x1p-8F);
}

struct ProductCase {
  int64_t in, out, n, batch, kernel, stride, dilation;
  bool gelu, gate, residual;
  int threads;
};

TEST(Panels, ProductsEqualTheirFormula) {
  if (!panels::available(Device())) GTEST_SKIP();
  for (const ProductCase& c : {ProductCase{64, 80, 7, 1, 1, 1, 1, false, false, false, 1},
                               {32, 18, 1, 1, 1, 1, 1, true, false, false, 3},
                               {6, 130, 25, 2, 1, 1, 1, false, true, true, 2},
                               {10, 64, 13, 2, 3, 1, 1, false, true, true, 3},
                               {4, 96, 60, 1, 11, 1, 5, false, false, true, 2},
                               {18, 32, 31, 1, 6, 3, 1, true, false, false, 4}}) {
    const Machine machine(c.threads);
    const int64_t rows = c.kernel * c.in;
    const int64_t n_out = (c.n - (c.kernel - 1) * c.dilation - 1) / c.stride + 1;
    const std::vector<float> w = numbers(rows * c.out, 1);
    const std::vector<float> x = numbers(c.in * c.n * c.batch, 2);
    const std::vector<float> bias = numbers(c.out, 3);
    const std::vector<float> gate = numbers(c.out, 4);
    const std::vector<float> residual = numbers(c.out * n_out * c.batch, 5);
    struct Tensors {
      ggml_tensor *x, *bias, *gate, *residual, *weight, *y;
    };
    GraphCache<Tensors> graphs(machine.executor, 32);
    const Tensors t = graphs.get({}, [&](Graph& g) {
      Tensors made{};
      made.x = g.input(GGML_TYPE_F32, {c.in, c.n, c.batch}, "x");
      made.bias = g.input(GGML_TYPE_F32, {c.out}, "bias");
      made.weight = g.input(GGML_TYPE_BF16, {rows, panels::padded_outputs(c.out)}, "weight");
      made.gate = g.input(GGML_TYPE_F32, {c.out}, "gate");
      made.residual = g.input(GGML_TYPE_F32, {c.out, n_out, c.batch}, "residual");
      panels::After after{c.gelu, c.gate ? made.gate : nullptr, c.residual ? made.residual : nullptr};
      made.y =
          g.output(panels::multiply(g.ctx(), {made.weight, made.bias, c.out, c.kernel, c.stride, c.dilation},
                                    made.x, after),
                   "y");
      return made;
    });
    std::vector<float> packed(static_cast<size_t>(rows * panels::padded_outputs(c.out)));
    panels::pack(w.data(), rows, c.out, packed.data());
    machine.executor->set<float>(t.x, x);
    machine.executor->set<float>(t.bias, bias);
    machine.executor->set<uint16_t>(t.weight, as_bf16(packed));
    if (c.gate) machine.executor->set<float>(t.gate, gate);
    if (c.residual) machine.executor->set<float>(t.residual, residual);
    graphs.run();
    std::vector<float> y(residual.size());
    ASSERT_EQ(static_cast<size_t>(ggml_nelements(t.y)), y.size());
    machine.executor->get<float>(t.y, std::span(y));
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t i = 0; i < n_out; ++i) {
        for (int64_t o = 0; o < c.out; ++o) {
          double sum = bias[static_cast<size_t>(o)];
          for (int64_t k = 0; k < rows; ++k) {
            const int64_t frame = i * c.stride + k / c.in * c.dilation;
            sum += double(w[static_cast<size_t>(o * rows + k)]) *
                   x[static_cast<size_t>((b * c.n + frame) * c.in + k % c.in)];
          }
          if (c.gelu) sum = gelu_of(sum);
          if (c.gate) sum *= gate[static_cast<size_t>(o)];
          const auto at = static_cast<size_t>((b * n_out + i) * c.out + o);
          if (c.residual) sum += residual[at];
          // Sums of up to 64 products of normal numbers, in float.
          ASSERT_NEAR(y[at], sum, 3e-5) << c.in << " to " << c.out << ", " << o << " of row " << i;
        }
      }
    }
  }
}

// Attention in two windows over a cache with gaps, the second beside rows of the first.
TEST(Panels, AttentionOverACacheEqualsItsFormula) {
  if (!panels::available(Device())) GTEST_SKIP();
  for (const int64_t dim : {64, 8, 24}) {
    constexpr int64_t kHeads = 3;
    constexpr int64_t kBatch = 2;
    constexpr int64_t kRows = 40;
    const Machine machine(2);
    const int64_t width = dim * kHeads;
    const panels::CacheShape shape{dim, kHeads, kRows, kBatch};
    ContextPtr context(ggml_init({4 * ggml_tensor_overhead(), nullptr, true}));
    ggml_tensor* keys =
        ggml_new_tensor_3d(context.get(), GGML_TYPE_I32, shape.key_columns(), width / 2, kBatch);
    ggml_tensor* values =
        ggml_new_tensor_3d(context.get(), GGML_TYPE_I32, shape.value_columns(), kRows / 2, kBatch);
    const BufferPtr buffer(
        ggml_backend_alloc_ctx_tensors_from_buft(context.get(), machine.device->buffer_type()));
    ggml_backend_buffer_clear(buffer.get(), 0);
    std::vector<float> weights[4];
    for (size_t i = 0; i < 4; ++i) weights[i] = numbers(dim, 10 + i);

    // Rows as the formula sees them.
    std::vector<float> all_k(static_cast<size_t>(kBatch * kRows * width));
    std::vector<float> all_v(all_k.size());
    std::vector<bool> used(kRows, false);
    const auto normal = [&](const float* from, const std::vector<float>& w, const std::vector<float>& b) {
      double mean = 0;
      double square = 0;
      for (int64_t d = 0; d < dim; ++d) mean += from[d] / double(dim);
      for (int64_t d = 0; d < dim; ++d) square += (from[d] - mean) * (from[d] - mean) / double(dim);
      std::vector<float> out;
      for (size_t d = 0; d < static_cast<size_t>(dim); ++d) {
        out.push_back(static_cast<float>((from[d] - mean) / std::sqrt(square + 1e-5) * w[d] + b[d]));
      }
      return out;
    };
    for (const int64_t window : {0, 1}) {
      const int64_t n = window == 0 ? 17 : 7;
      const int64_t n_keys = window == 0 ? 17 : 33;
      const std::vector<float> qkv = numbers(3 * width * n * kBatch, 20 + static_cast<uint64_t>(window));
      std::vector<int64_t> slots;
      for (int64_t i = 0; i < n; ++i) slots.push_back(window == 0 ? i : 20 + 2 * i);
      for (const int64_t s : slots) used[static_cast<size_t>(s)] = true;
      struct Tensors {
        ggml_tensor *qkv, *slots, *mask, *norms[4], *out;
      };
      GraphCache<Tensors> graphs(machine.executor, 32);
      const Tensors t = graphs.get({}, [&](Graph& g) {
        Tensors made{};
        made.qkv = g.input(GGML_TYPE_F32, {3 * width, n, kBatch}, "qkv");
        made.slots = g.input(GGML_TYPE_I64, {n}, "slots");
        if (window == 1) made.mask = g.input(GGML_TYPE_F32, {n_keys}, "mask");
        for (ggml_tensor*& norm : made.norms) norm = g.input(GGML_TYPE_F32, {dim}, "norm");
        ggml_tensor* y = panels::attend(g.ctx(), *machine.device, made.qkv,
                                        {made.norms[0], made.norms[1], made.norms[2], made.norms[3], 1e-5F},
                                        shape, keys, values, made.slots, made.mask, n_keys);
        made.out = g.output(ggml_cast(g.ctx(), y, GGML_TYPE_F32), "out");
        return made;
      });
      machine.executor->set<float>(t.qkv, qkv);
      machine.executor->set<int64_t>(t.slots, slots);
      for (size_t i = 0; i < 4; ++i) machine.executor->set<float>(t.norms[i], weights[i]);
      if (t.mask != nullptr) {
        std::vector<float> mask;
        for (size_t i = 0; i < static_cast<size_t>(n_keys); ++i) {
          mask.push_back(used[i] ? 0.0F : -std::numeric_limits<float>::infinity());
        }
        machine.executor->set<float>(t.mask, mask);
      }
      graphs.run();
      std::vector<float> out(static_cast<size_t>(width * n * kBatch));
      machine.executor->get<float>(t.out, std::span(out));
      for (int64_t b = 0; b < kBatch; ++b) {
        for (int64_t head = 0; head < kHeads; ++head) {
          for (int64_t i = 0; i < n; ++i) {
            const float* row = qkv.data() + (b * n + i) * 3 * width + head * dim;
            const auto to = (b * kRows + slots[static_cast<size_t>(i)]) * width + head * dim;
            const std::vector<float> k = normal(row + width, weights[2], weights[3]);
            std::copy(k.begin(), k.end(), all_k.begin() + to);
            std::copy_n(row + 2 * width, dim, all_v.begin() + to);
          }
          for (int64_t i = 0; i < n; ++i) {
            const float* row = qkv.data() + (b * n + i) * 3 * width + head * dim;
            const std::vector<float> q = normal(row, weights[0], weights[1]);
            std::vector<double> sums(static_cast<size_t>(dim));
            double total = 0;
            for (int64_t s = 0; s < n_keys; ++s) {
              if (!used[static_cast<size_t>(s)]) continue;
              const auto at = static_cast<size_t>((b * kRows + s) * width + head * dim);
              double score = 0;
              for (size_t d = 0; d < q.size(); ++d) score += double(q[d]) * all_k[at + d];
              const double weight = std::exp(score / std::sqrt(double(dim)));
              total += weight;
              for (size_t d = 0; d < q.size(); ++d) sums[d] += weight * all_v[at + d];
            }
            for (size_t d = 0; d < q.size(); ++d) {
              // Scores of a few units with queries and keys of 8 bits: a few hundredths of values up to 4.
              ASSERT_NEAR(out[static_cast<size_t>((b * n + i) * width + head * dim) + d], sums[d] / total,
                          0.05)
                  << "head of " << dim << ", window " << window << ", query " << i;
            }
          }
        }
      }
    }
    // Rows packed at once are the words that the kernel writes.
    std::vector<uint32_t> written(static_cast<size_t>(ggml_nelements(keys)));
    ggml_backend_tensor_get(keys, written.data(), 0, written.size() * 4);
    std::vector<uint32_t> packed(written.size() / kBatch);
    panels::pack_keys(shape, std::span(all_k).first(all_k.size() / kBatch), packed);
    for (size_t i = 0; i < packed.size(); ++i) {
      for (const int shift : {0, 16}) {
        const auto half = [&](uint32_t word) { return std::bit_cast<float>(word >> shift << 16); };
        ASSERT_NEAR(half(written[i]), half(packed[i]), 0.02 + 0.01 * std::abs(half(packed[i])));
      }
    }
    std::vector<uint32_t> written_values(static_cast<size_t>(ggml_nelements(values)));
    ggml_backend_tensor_get(values, written_values.data(), 0, written_values.size() * 4);
    std::vector<uint32_t> packed_values(written_values.size() / kBatch);
    panels::pack_values(shape, std::span(all_v).first(all_v.size() / kBatch), packed_values);
    EXPECT_TRUE(std::equal(packed_values.begin(), packed_values.end(), written_values.begin())) << dim;
  }
}

// Rows before and behind, kept from call to call, whatever the lengths and threads.
TEST(Prepare, RowsEqualTheirFormula) {
  constexpr int64_t kWidth = 37;
  constexpr int64_t kBatch = 2;
  enum { norm, norm_mish, snake, leaky, copy };
  for (const DeviceInfo& info : list_devices()) {
    for (const int kind : {norm, norm_mish, snake, leaky, copy}) {
      for (const int threads : {1, 3}) {
        const auto device = std::make_shared<Device>(DeviceOptions{.name = info.name, .n_threads = threads});
        const auto executor = std::make_shared<Executor>(device);
        const std::vector<float> a = numbers(kWidth, 1);
        const std::vector<float> b = numbers(kWidth, 2);
        ContextPtr context(ggml_init({2 * ggml_tensor_overhead(), nullptr, true}));
        constexpr int64_t kBefore = 3;
        ggml_tensor* past = ggml_new_tensor_3d(context.get(), GGML_TYPE_F32, kWidth, kBefore, kBatch);
        const BufferPtr buffer(
            ggml_backend_alloc_ctx_tensors_from_buft(context.get(), device->buffer_type()));
        ggml_backend_buffer_clear(buffer.get(), 0);
        std::vector<std::vector<double>> seen[kBatch];  // rows so far
        for (auto& rows : seen) rows.assign(kBefore, std::vector<double>(kWidth, 0.0));
        for (const int64_t n : {5, 1, 2, 9}) {
          struct Tensors {
            ggml_tensor *x, *a, *b, *y;
          };
          GraphCache<Tensors> graphs(executor, 64);
          const Tensors t = graphs.get({}, [&](Graph& g) {
            Tensors made{};
            made.x = g.input(GGML_TYPE_F32, {kWidth, n, kBatch}, "x");
            made.a = g.input(GGML_TYPE_F32, {kWidth}, "a");
            made.b = g.input(GGML_TYPE_F32, {kWidth}, "b");
            const Prepare prepare(g, *device);
            const Edges edges{kBefore, 2, past};
            ggml_tensor* y = kind == norm        ? prepare.norm(made.x, made.a, made.b, 1e-6F, edges)
                             : kind == norm_mish ? prepare.norm_mish(made.x, made.a, made.b, 1e-6F, edges)
                             : kind == snake     ? prepare.snake(made.x, {made.a, made.b}, edges)
                             : kind == leaky     ? prepare.leaky(made.x, 0.1F, edges)
                                                 : prepare.copy(made.x, edges);
            made.y = g.output(y, "y");
            return made;
          });
          const std::vector<float> x = numbers(kWidth * n * kBatch, 30 + static_cast<uint64_t>(n));
          executor->set<float>(t.x, x);
          if (kind <= snake) {
            executor->set<float>(t.a, a);
            executor->set<float>(t.b, b);
          }
          graphs.run();
          std::vector<float> y(static_cast<size_t>(kWidth * (kBefore + n + 2) * kBatch));
          ASSERT_EQ(static_cast<size_t>(ggml_nelements(t.y)), y.size());
          executor->get<float>(t.y, std::span(y));
          for (size_t batch = 0; batch < kBatch; ++batch) {
            for (int64_t i = 0; i < n; ++i) {
              const float* row = x.data() + (static_cast<int64_t>(batch) * n + i) * kWidth;
              double mean = 0;
              double square = 0;
              for (int64_t j = 0; j < kWidth; ++j) mean += row[j] / double(kWidth);
              for (int64_t j = 0; j < kWidth; ++j)
                square += (row[j] - mean) * (row[j] - mean) / double(kWidth);
              std::vector<double> made;
              for (size_t j = 0; j < kWidth; ++j) {
                const double z = (row[j] - mean) / std::sqrt(square + 1e-6) * a[j] + b[j];
                const double wave = std::sin(double(a[j]) * row[j]);
                made.push_back(kind == norm        ? z
                               : kind == norm_mish ? z * std::tanh(std::log1p(std::exp(z)))
                               : kind == snake     ? row[j] + wave * wave * b[j]
                               : kind == leaky     ? (row[j] < 0 ? 0.1 * row[j] : row[j])
                                                   : row[j]);
              }
              seen[batch].push_back(made);
            }
            const size_t rows = static_cast<size_t>(kBefore + n);
            for (size_t i = 0; i < rows + 2; ++i) {
              for (size_t j = 0; j < kWidth; ++j) {
                const double expected = i < rows ? seen[batch][seen[batch].size() - rows + i][j] : 0.0;
                ASSERT_NEAR(y[(batch * (rows + 2) + i) * kWidth + j], expected,
                            2e-6 * (1 + std::abs(expected)))
                    << "kind " << kind << ", " << threads << " threads, row " << i << " of " << n;
              }
            }
          }
        }
      }
    }
  }
}

#ifdef OMNI_HAS_TARGETS

template <typename Factor>
void expect_product(void (*multiply)(const panels::Product&, int64_t),
                    void (*finish)(const float*, const panels::Finish&, float*, int64_t)) {
  constexpr int64_t kIn = 50;
  for (const int64_t columns : {16, 32, 48, 64}) {
    const std::vector<float> w = numbers(kIn * columns, 1);
    const std::vector<float> x = numbers(kIn * panels::kRows, 2);
    std::vector<float> packed(w.size());
    panels::pack(w.data(), kIn, columns, packed.data());
    std::vector<uint16_t> halves = as_bf16(packed);
    std::vector<uint32_t> words(halves.size() / 2);
    std::memcpy(words.data(), halves.data(), halves.size() * 2);
    std::vector<Factor> factors;
    for (const float f : x) {
      if constexpr (sizeof(Factor) == 2) {
        factors.push_back(panels::to_bf16(f));
      } else {
        factors.push_back(f);
      }
    }
    std::vector<float> sums(static_cast<size_t>(panels::kRows * columns));
    panels::Product p{{}, 1, 0, kIn / 2, words.data(), columns, sums.data(), columns};
    for (int64_t r = 0; r < panels::kRows; ++r) p.a[r] = factors.data() + r * kIn;
    multiply(p, columns);
    std::vector<float> out(static_cast<size_t>(columns));
    for (int64_t r = 0; r < panels::kRows; ++r) {
      finish(sums.data() + r * columns, {w.data(), true, w.data() + 64, w.data() + 128}, out.data(),
             columns - 3);
      for (size_t c = 0; c < static_cast<size_t>(columns - 3); ++c) {
        double sum = w[c];
        for (int64_t i = 0; i < kIn; ++i) {
          sum += double(w[c * kIn + static_cast<size_t>(i)]) * x[static_cast<size_t>(r * kIn + i)];
        }
        ASSERT_NEAR(out[c], gelu_of(sum) * w[64 + c] + w[128 + c], 3e-5) << columns << " columns, " << c;
      }
      EXPECT_EQ(out[static_cast<size_t>(columns - 1)], 0.0F);
    }
  }
}

// Every instruction set, not only the best one.
TEST(Panels, EveryTargetAgrees) {
  expect_product<float>(lanes4::multiply_panel, lanes4::finish_row);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    expect_product<float>(lanes8::multiply_panel, lanes8::finish_row);
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
    expect_product<float>(lanes16::multiply_panel, lanes16::finish_row);
  }
  if (OMNI_HAS_BF16_DOT) expect_product<uint16_t>(lanes16_bf16::multiply_panel, lanes16_bf16::finish_row);
#endif
}

#endif

}  // namespace
}  // namespace omni
