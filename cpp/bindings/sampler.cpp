// bindings/sampler.cpp - samplers and beam search.
#include "omni/sampler.h"

#include "omni/beam_search.h"
#include "omni/error.h"
#include "omni/tokenizer.h"

#include "base/random.h"
#include "bindings.h"
#include "text/selection.h"

namespace omni::python {
namespace {

using Ids = std::vector<int32_t>;

FilterOptions filters(int top_k, float top_p, int min_keep, bool keep_ties, bool keep_at_p,
                      bool top_p_first) {
  return {top_k, keep_ties, top_p, min_keep, keep_at_p, top_p_first};
}

// The pieces that the samplers are made of, for tests.
void bind_pieces(py::module_& m) {
  m.def(
      "filter_scores",
      [](const FloatArray& scores, int top_k, float top_p, int min_keep, bool keep_ties, bool keep_at_p,
         bool top_p_first) {
        const auto in = view(scores);
        check_scores(in, in.size());
        std::vector<float> out(in.begin(), in.end());
        filter_scores(out, filters(top_k, top_p, min_keep, keep_ties, keep_at_p, top_p_first));
        return to_array(std::move(out), {scores.size()});
      },
      py::arg("scores"), py::kw_only(), py::arg("top_k") = 0, py::arg("top_p") = 0.0F,
      py::arg("min_keep") = 1, py::arg("keep_ties") = true, py::arg("keep_at_p") = true,
      py::arg("top_p_first") = false);
  m.def(
      "penalize_by_count",
      [](const FloatArray& scores, const Ids& ids, float penalty) {
        const auto in = view(scores);
        for (const int32_t id : ids) {
          require(id >= 0 && static_cast<size_t>(id) < in.size(), ErrorCode::invalid_argument, "token id ",
                  id, " is outside of ", in.size(), " scores");
        }
        std::vector<float> out(in.begin(), in.end());
        RepetitionPenalty(out.size()).apply_by_count(out, ids, penalty);
        return to_array(std::move(out), {scores.size()});
      },
      py::arg("scores"), py::arg("ids"), py::arg("penalty"));
  py::class_<Random>(m, "Random", "xoshiro256++ seeded by splitmix64.")
      .def(py::init<uint64_t>(), py::arg("seed") = 0)
      .def("bits", &Random::bits)
      .def("uniform", &Random::uniform, "Uniform in [0, 1).")
      .def("normal", &Random::normal, "Standard normal.");
}

template <typename Sampler>
auto bind_common(py::class_<Sampler>& cls) {
  return cls.def_property_readonly("history", &Sampler::history, "The chosen ids that penalties look at.")
      .def("reset", &Sampler::reset, "Forgets the history; the random numbers go on.")
      .def(
          "copy", [](const Sampler& s) { return Sampler(s); },
          "An independent copy, random numbers included.");
}

template <typename Sampler>
int32_t sample(Sampler& sampler, const FloatArray& logits) {
  const auto in = view(logits);
  const py::gil_scoped_release release;
  return sampler.sample(in);
}

void bind_chat(py::module_& m) {
  py::class_<ChatSampler> cls(m, "ChatSampler",
                              "One answer of a chat: repetition penalty on everything generated, "
                              "temperature, top-k, top-p.");
  cls.def(py::init([](int32_t n_vocab, Ids stop_ids, bool greedy, float temperature, int top_k, float top_p,
                      float repetition_penalty, int min_new_tokens, uint64_t seed) {
            return ChatSampler(n_vocab, std::move(stop_ids),
                               {greedy, temperature, top_k, top_p, repetition_penalty, min_new_tokens, seed});
          }),
          py::arg("n_vocab"), py::arg("stop_ids"), py::kw_only(), py::arg("greedy") = false,
          py::arg("temperature") = 0.7F, py::arg("top_k") = 100, py::arg("top_p") = 0.8F,
          py::arg("repetition_penalty") = 1.02F, py::arg("min_new_tokens") = 0, py::arg("seed") = 0)
      .def("sample", &sample<ChatSampler>, py::arg("logits"), "Chooses an id from logits [n_vocab].")
      .def("is_stop", &ChatSampler::is_stop, py::arg("id"));
  bind_common(cls);
}

void bind_streaming(py::module_& m) {
  py::class_<StreamingSampler> cls(m, "StreamingSampler", "One answer of simplex streaming, made in chunks.");
  cls.def(py::init([](int32_t n_vocab, Ids stop_ids, Ids forbidden, bool greedy, float temperature, int top_k,
                      float top_p, float repetition_penalty, int penalty_window, float length_penalty,
                      uint64_t seed) {
            return StreamingSampler(n_vocab, std::move(stop_ids), std::move(forbidden),
                                    {greedy, temperature, top_k, top_p, repetition_penalty, penalty_window,
                                     length_penalty, seed});
          }),
          py::arg("n_vocab"), py::arg("stop_ids"), py::arg("forbidden"), py::kw_only(),
          py::arg("greedy") = false, py::arg("temperature") = 0.7F, py::arg("top_k") = 100,
          py::arg("top_p") = 0.8F, py::arg("repetition_penalty") = 1.02F, py::arg("penalty_window") = 128,
          py::arg("length_penalty") = 1.0F, py::arg("seed") = 0)
      .def("begin_chunk", &StreamingSampler::begin_chunk, "The next ids belong to a new chunk.")
      .def("sample", &sample<StreamingSampler>, py::arg("logits"), "Chooses an id from logits [n_vocab].")
      .def("is_stop", &StreamingSampler::is_stop, py::arg("id"));
  bind_common(cls);
  m.def("streaming_forbidden_ids", &streaming_forbidden_ids, py::arg("tokenizer"),
        "What a streamed spoken answer must not contain, ascending.");
}

DuplexSamplerOptions duplex_options(bool greedy, float temperature, int top_k, float top_p,
                                    float repetition_penalty, int penalty_window, float length_penalty,
                                    float listen_prob_scale, std::optional<int> listen_top_k,
                                    bool listen_options_on_eos, uint64_t seed) {
  return {greedy,
          temperature,
          top_k,
          top_p,
          repetition_penalty,
          penalty_window,
          length_penalty,
          listen_prob_scale,
          listen_top_k,
          listen_options_on_eos,
          seed};
}

void bind_duplex(py::module_& m) {
  py::class_<DuplexSamplerOptions>(m, "DuplexSamplerOptions")
      .def(py::init(&duplex_options), py::kw_only(), py::arg("greedy") = false, py::arg("temperature") = 0.7F,
           py::arg("top_k") = 100, py::arg("top_p") = 0.8F, py::arg("repetition_penalty") = 1.05F,
           py::arg("penalty_window") = 512, py::arg("length_penalty") = 1.1F,
           py::arg("listen_prob_scale") = 1.0F, py::arg("listen_top_k") = py::none(),
           py::arg("listen_options_on_eos") = false, py::arg("seed") = 0);
  py::class_<DuplexSampler> cls(
      m, "DuplexSampler", "A full-duplex session: first whether the unit ends, then a token of the rest.");
  cls.def(py::init([](const Tokenizer& tokenizer, const DuplexSamplerOptions& options) {
            return DuplexSampler(tokenizer.size(), DuplexTokens::of(tokenizer), options);
          }),
          py::arg("tokenizer"), py::arg("options") = DuplexSamplerOptions())
      .def("sample", &sample<DuplexSampler>, py::arg("logits"), "Chooses an id from logits [n_vocab].")
      .def("set_options", &DuplexSampler::set_options, py::arg("options"), "From the next step on.");
  bind_common(cls);
  m.def(
      "duplex_forbidden_ids", [](const Tokenizer& t) { return DuplexTokens::of(t).forbidden; },
      py::arg("tokenizer"), "What the second stage of the duplex sampler never chooses, ascending.");
}

void bind_speech(py::module_& m) {
  py::class_<SpeechSampler> cls(m, "SpeechSampler",
                                "Speech tokens: temperature, penalty by count, top-p, top-k.");
  cls.def(py::init([](int32_t n_codes, int32_t eos, bool greedy, float temperature, float repetition_penalty,
                      float top_p, int top_k, uint64_t seed) {
            return SpeechSampler(n_codes, eos, {greedy, temperature, repetition_penalty, top_p, top_k, seed});
          }),
          py::arg("n_codes"), py::arg("eos"), py::kw_only(), py::arg("greedy") = false,
          py::arg("temperature") = 0.8F, py::arg("repetition_penalty") = 1.05F, py::arg("top_p") = 0.85F,
          py::arg("top_k") = 25, py::arg("seed") = 0)
      .def(
          "sample",
          [](SpeechSampler& s, const FloatArray& logits, bool plain, bool ban_eos) {
            const auto in = view(logits);
            const py::gil_scoped_release release;
            return s.sample(in, plain, ban_eos);
          },
          py::arg("logits"), py::kw_only(), py::arg("plain") = false, py::arg("ban_eos") = false,
          "Chooses a code from logits [n_codes]; plain leaves penalty and filters out.");
  bind_common(cls);
}

// A model that is a Python function (parents, tokens) -> logits [n_beams, n_vocab].
class CallbackModel : public BeamModel {
 public:
  explicit CallbackModel(py::function step) : step_(std::move(step)) {}
  void step(std::span<const int32_t> parents, std::span<const int32_t> tokens,
            std::span<float> logits) override {
    const auto result =
        step_(Ids(parents.begin(), parents.end()), Ids(tokens.begin(), tokens.end())).cast<FloatArray>();
    const auto values = view(result);
    require(values.size() == logits.size(), ErrorCode::invalid_argument, "the step function gave ",
            values.size(), " logits; ", logits.size(), " are needed");
    std::copy(values.begin(), values.end(), logits.begin());
  }

 private:
  py::function step_;
};

void bind_beam_search(py::module_& m) {
  m.def(
      "beam_search",
      [](py::function step, const FloatArray& first_logits, const Ids& stop_ids, int n_beams, bool greedy,
         int max_new_tokens, int min_new_tokens, float repetition_penalty, float temperature, int top_k,
         float top_p, float length_penalty, uint64_t seed) {
        CallbackModel model(std::move(step));
        auto result = beam_search(model, view(first_logits), stop_ids,
                                  {n_beams, greedy, max_new_tokens, min_new_tokens, repetition_penalty,
                                   temperature, top_k, top_p, length_penalty, seed});
        return std::pair(std::move(result.ids), result.score);
      },
      py::arg("step"), py::arg("first_logits"), py::arg("stop_ids"), py::kw_only(), py::arg("n_beams") = 3,
      py::arg("greedy") = true, py::arg("max_new_tokens") = 4096, py::arg("min_new_tokens") = 0,
      py::arg("repetition_penalty") = 1.2F, py::arg("temperature") = 0.7F, py::arg("top_k") = 100,
      py::arg("top_p") = 0.8F, py::arg("length_penalty") = 1.0F, py::arg("seed") = 0,
      "Beam search. step(parents, tokens) -> logits [n_beams, n_vocab]: beam b continues what beam "
      "parents[b]\n"
      "was with tokens[b]. Returns (ids, score).");
}

}  // namespace

void register_sampler(py::module_& m) {
  bind_pieces(m);
  bind_chat(m);
  bind_streaming(m);
  bind_duplex(m);
  bind_speech(m);
  bind_beam_search(m);
}

}  // namespace omni::python
