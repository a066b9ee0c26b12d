// speech/model.h - the parts of a speech model: tables, projector, decoder.
#pragma once

#include "omni/speech.h"

#include <memory>

#include "base/graph.h"
#include "base/row_table.h"
#include "llm/decoder.h"
#include "speech/projector.h"

namespace omni {

struct SpeechModel::Impl {
  // `projector_file` may be null: then the speech file's own copy is used.
  Impl(std::shared_ptr<const GgufFile> file, std::shared_ptr<const GgufFile> projector_file,
       const SpeechModelOptions& options);

  // Throws Error(invalid_argument) unless `hidden` is [n_ids, D] without NaN and the ids are known.
  void check(std::span<const int32_t> ids, std::span<const float> hidden) const;
  // The same unless `rows` is [n, W] without NaN.
  void check_rows(std::span<const float> rows) const;
  LinearPolicy policy() const;
  ggml_tensor* load_head(Weights& weights) const;

  SpeechModelOptions options;
  ggml_type kv_type;
  std::shared_ptr<Device> device;
  std::shared_ptr<const GgufFile> file;
  DecoderConfig config;
  RowTable text;   // [width, n_text]
  RowTable codes;  // [width, n_codes]
  Decoder decoder;
  std::shared_ptr<Executor> executor;
  std::unique_ptr<Projector> projector;
  SpeechModelInfo info;
};

}  // namespace omni
