// tests/kernels_test.cpp - the kernels for activations, for every instruction set that this machine has.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/graph.h"
#include "base/random.h"
#include "kernels/attention.h"
#include "kernels/attention_block.h"
#include "kernels/gelu.h"
#include <gtest/gtest.h>

#define OMNI_KERNEL_FILE "kernels/attention.inc"
#include "kernels/for_each_target.h"

namespace omni {
namespace {

std::vector<float> normals(size_t n, float scale, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(n);
  for (float& x : out) x = scale * random.normal();
  return out;
}

// softmax(q k^T / sqrt(dim)) v in double: q [n][width], k and v [m][width], one head at `offset`.
std::vector<double> exact_head(const float* q, const float* k, const float* v, int64_t n, int64_t m,
                               int64_t width, int64_t dim) {
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) {
    std::vector<double> weight(static_cast<size_t>(m));
    double most = -1e300;
    for (int64_t j = 0; j < m; ++j) {
      double dot = 0;
      for (int64_t d = 0; d < dim; ++d) dot += double(q[i * width + d]) * k[j * width + d];
      weight[static_cast<size_t>(j)] = dot / std::sqrt(double(dim));
      most = std::max(most, weight[static_cast<size_t>(j)]);
    }
    double sum = 0;
    for (double& w : weight) sum += w = std::exp(w - most);
    for (int64_t d = 0; d < dim; ++d) {
      double value = 0;
      for (int64_t j = 0; j < m; ++j) value += weight[static_cast<size_t>(j)] / sum * v[j * width + d];
      out.push_back(value);
    }
  }
  return out;
}

struct AttentionTensors {
  ggml_tensor* q = nullptr;
  ggml_tensor* k = nullptr;
  ggml_tensor* v = nullptr;
  ggml_tensor* out = nullptr;
};

TEST(Kernels, AttentionEqualsItsFormula) {
  struct Case {
    int64_t dim, heads, n, m, q_batch, batch;
    int threads;
  };
  for (const Case& c : {Case{72, 3, 33, 65, 2, 2, 1},
                        {24, 2, 1, 1, 1, 1, 2},
                        {16, 5, 70, 63, 1, 3, 3},
                        {128, 2, 64, 130, 1, 1, 4},
                        {5, 1, 17, 200, 1, 1, 3}}) {
    DeviceOptions options;
    options.n_threads = c.threads;
    const auto device = std::make_shared<Device>(options);
    const auto executor = std::make_shared<Executor>(device);
    const int64_t width = c.dim * c.heads;
    GraphCache<AttentionTensors> graphs(executor, 32);
    const AttentionTensors t = graphs.get({}, [&](Graph& g) {
      AttentionTensors made;
      made.q = g.input(GGML_TYPE_F32, {width, c.n, c.q_batch}, "q");
      made.k = g.input(GGML_TYPE_F32, {width, c.m, c.batch}, "k");
      made.v = g.input(GGML_TYPE_F32, {width, c.m, c.batch}, "v");
      made.out = g.output(attend(g.ctx(), *device, made.q, made.k, made.v, c.heads), "out");
      return made;
    });
    // Wide scores, so that a few keys dominate.
    const std::vector<float> q = normals(static_cast<size_t>(ggml_nelements(t.q)), 2, 1);
    const std::vector<float> k = normals(static_cast<size_t>(ggml_nelements(t.k)), 2, 2);
    const std::vector<float> v = normals(static_cast<size_t>(ggml_nelements(t.v)), 1, 3);
    executor->set<float>(t.q, q);
    executor->set<float>(t.k, k);
    executor->set<float>(t.v, v);
    graphs.run();
    std::vector<float> out(static_cast<size_t>(width * c.n * c.batch));
    ASSERT_EQ(static_cast<size_t>(ggml_nelements(t.out)), out.size());
    executor->get<float>(t.out, std::span(out));
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t head = 0; head < c.heads; ++head) {
        const int64_t offset = head * c.dim;
        const int64_t from = b * c.m * width + offset;
        const std::vector<double> expected =
            exact_head(q.data() + (c.q_batch == 1 ? 0 : b * c.n * width) + offset, k.data() + from,
                       v.data() + from, c.n, c.m, width, c.dim);
        for (int64_t i = 0; i < c.n * c.dim; ++i) {
          // Scores up to 50 rounded to 24 bits: a relative error of a few 1e-6 in the weights.
          ASSERT_NEAR(out[static_cast<size_t>((b * c.n + i / c.dim) * width + offset + i % c.dim)],
                      expected[static_cast<size_t>(i)], 3e-5)
              << "head of " << c.dim << ", " << i;
        }
      }
    }
  }
}

// Queries that see a growing number of keys, keys and values as float and as half.
TEST(Kernels, AttentionSeesTheFirstKeys) {
  struct Tensors : AttentionTensors {
    Visible visible;
  };
  constexpr int64_t kDim = 24;
  constexpr int64_t kHeads = 3;
  constexpr int64_t kWidth = kDim * kHeads;
  constexpr int64_t kQueries = 40;
  constexpr int64_t kKeys = 150;
  for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16}) {
    for (const DeviceInfo& info : list_devices()) {
      const auto device = std::make_shared<Device>(DeviceOptions{.name = info.name, .n_threads = 2});
      const auto executor = std::make_shared<Executor>(device);
      GraphCache<Tensors> graphs(executor, 32);
      const Tensors t = graphs.get({}, [&](Graph& g) {
        Tensors made;
        made.q = g.input(GGML_TYPE_F32, {kWidth, kQueries}, "q");
        made.k = g.input(type, {kWidth, kKeys}, "k");
        made.v = g.input(type, {kWidth, kKeys}, "v");
        made.visible = Visible::input(g, *device, kKeys, kQueries);
        made.out = g.output(attend(g.ctx(), *device, made.q, made.k, made.v, kHeads, made.visible), "out");
        return made;
      });
      const std::vector<float> q = normals(kWidth * kQueries, 2, 1);
      std::vector<float> k = normals(kWidth * kKeys, 2, 2);
      std::vector<float> v = normals(kWidth * kKeys, 1, 3);
      v[5] = 3e-6F;  // subnormal as half
      const auto give = [&](ggml_tensor* to, std::vector<float>& values) {
        if (type == GGML_TYPE_F32) {
          executor->set<float>(to, values);
          return;
        }
        std::vector<ggml_fp16_t> halves(values.size());
        ggml_fp32_to_fp16_row(values.data(), halves.data(), static_cast<int64_t>(values.size()));
        executor->set<ggml_fp16_t>(to, halves);
        ggml_fp16_to_fp32_row(halves.data(), values.data(), static_cast<int64_t>(values.size()));
      };
      give(t.k, k);
      give(t.v, v);
      executor->set<float>(t.q, q);
      std::vector<int32_t> seen;
      for (int64_t i = 0; i < kQueries; ++i) seen.push_back(static_cast<int32_t>(1 + i * i % 130));
      std::vector<ggml_fp16_t> scratch;
      t.visible.set(*executor, seen, scratch);
      graphs.run();
      std::vector<float> out(q.size());
      executor->get<float>(t.out, std::span(out));
      // Accelerators may hold keys and values as half.
      const double tolerance = device->is_host() ? 3e-5 : 2e-2;
      for (int64_t i = 0; i < kQueries; ++i) {
        for (int64_t head = 0; head < kHeads; ++head) {
          const int64_t offset = head * kDim;
          const auto expected = exact_head(q.data() + i * kWidth + offset, k.data() + offset,
                                           v.data() + offset, 1, seen[static_cast<size_t>(i)], kWidth, kDim);
          for (int64_t d = 0; d < kDim; ++d) {
            ASSERT_NEAR(out[static_cast<size_t>(i * kWidth + offset + d)], expected[static_cast<size_t>(d)],
                        tolerance)
                << info.name << ", query " << i;
          }
        }
      }
    }
  }
}

// `exact` gives the factor of z in double; `make` is the operator.
template <typename Make, typename Exact>
void expect_gelu(Make&& make, Exact&& exact) {
  const auto device = std::make_shared<Device>();
  const auto executor = std::make_shared<Executor>(device);
  constexpr int64_t kWidth = 1001;
  constexpr int64_t kRows = 7;
  struct Tensors {
    ggml_tensor* x;
    ggml_tensor* bias;
    ggml_tensor* y;
  };
  GraphCache<Tensors> graphs(executor, 16);
  const Tensors t = graphs.get({}, [&](Graph& g) {
    Tensors made{};
    made.x = g.input(GGML_TYPE_F32, {kWidth, kRows}, "x");
    made.bias = g.input(GGML_TYPE_F32, {kWidth}, "bias");
    made.y = g.output(make(g.ctx(), *device, made.x, made.bias), "y");
    return made;
  });
  std::vector<float> x;
  for (int64_t i = 0; i < kWidth * kRows; ++i) x.push_back(static_cast<float>(i - 3500) * 0.005F);
  x[0] = 1e18F;
  x[1] = -1e18F;
  std::vector<float> bias(kWidth, 0.25F);
  executor->set<float>(t.x, x);
  executor->set<float>(t.bias, bias);
  graphs.run();
  std::vector<float> y(x.size());
  executor->get<float>(t.y, std::span(y));
  for (size_t i = 0; i < x.size(); ++i) {
    const double z = double(x[i] + 0.25F);
    const double expected = z * exact(z);
    // A relative error of a few roundings, and what cancels in the formula's 1 + tanh or 1 + erf.
    EXPECT_NEAR(y[i], expected, 1e-6 * std::abs(expected) + std::min(2e-7 * std::abs(z), 1e-6)) << z;
  }
}

TEST(Kernels, TanhGeluEqualsItsFormula) {
  expect_gelu(gelu_tanh, [](double z) {
    return 0.5 * (1 + std::tanh(std::sqrt(2 / 3.141592653589793) * (z + 0.044715 * z * z * z)));
  });
}

TEST(Kernels, ErfGeluEqualsItsFormula) {
  expect_gelu(gelu_erf, [](double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); });
}

#ifdef OMNI_HAS_TARGETS

using AttendQueries = void (*)(const attention::Head&, const attention::Scratch&, float*);

// Every instruction set, not only the best one.
TEST(Kernels, EveryTargetAgrees) {
  std::vector<AttendQueries> targets = {lanes4::attend_queries};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    targets.push_back(lanes8::attend_queries);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
    targets.push_back(lanes16::attend_queries);
  }
#endif
  for (const int64_t dim : {3, 16, 64, 72, 128}) {
    constexpr int64_t kQueries = 21;
    constexpr int64_t kKeys = 97;
    const std::vector<float> q = normals(static_cast<size_t>(kQueries * dim), 2, 4);
    const std::vector<float> k = normals(static_cast<size_t>(kKeys * dim), 2, 5);
    const std::vector<float> v = normals(static_cast<size_t>(kKeys * dim), 1, 6);
    const std::vector<double> expected = exact_head(q.data(), k.data(), v.data(), kQueries, kKeys, dim, dim);
    for (const AttendQueries attend_queries : targets) {
      std::vector<float> out(q.size());
      attention::Head h{};
      h.q = q.data();
      h.k = k.data();
      h.v = v.data();
      h.out = out.data();
      h.width = h.dim = dim;
      h.n_keys = kKeys;
      h.last_query = kQueries;
      h.scale = 1.0F / std::sqrt(static_cast<float>(dim));
      const attention::Scratch s(dim, kKeys);
      std::vector<float> scratch(static_cast<size_t>(s.size));
      attention::pack(h, s, scratch.data());
      attend_queries(h, s, scratch.data());
      for (size_t i = 0; i < out.size(); ++i) ASSERT_NEAR(out[i], expected[i], 3e-5) << dim << ", " << i;
    }
  }
}

#endif

}  // namespace
}  // namespace omni
