// Beam search as transformers 4.51 does it; the reference's chat uses three beams unless told otherwise.
#pragma once

#include "omni/export.h"

#include <cstdint>
#include <span>
#include <vector>

namespace omni {

struct BeamSearchOptions {
  int n_beams = 3;
  bool greedy = true;  // false: candidates are drawn instead of taken in order
  int max_new_tokens = 4096;
  int min_new_tokens = 0;           // no stop token before so many
  float repetition_penalty = 1.2F;  // the reference's value for greedy = true; 1.02 when drawing
  float temperature = 0.7F;         // these three only when drawing
  int top_k = 100;
  float top_p = 0.8F;
  float length_penalty = 1;  // the score of a finished text is divided by its length to this power
  uint64_t seed = 0;
};

// The model, as the search sees it.
class BeamModel {
 public:
  virtual ~BeamModel() = default;
  // Beam b continues what beam parents[b] was, with the token tokens[b]. Fills logits[b * n_vocab + id].
  virtual void step(std::span<const int32_t> parents, std::span<const int32_t> tokens,
                    std::span<float> logits) = 0;
};

struct BeamSearchResult {
  std::vector<int32_t> ids;  // with the stop token at the end, if there was one
  float score = 0;           // sum of processed log-probabilities / length ^ length_penalty
};

// `first_logits` are those behind the prompt, [n_vocab]; all beams start from them. Throws
// Error(invalid_argument) for logits with NaN or infinity and for options that make no sense.
OMNI_API BeamSearchResult beam_search(BeamModel& model, std::span<const float> first_logits,
                                      const std::vector<int32_t>& stop_ids,
                                      const BeamSearchOptions& options = {});

}  // namespace omni
