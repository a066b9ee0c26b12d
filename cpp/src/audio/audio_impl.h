// audio/audio_impl.h - what AudioEncoder and its streams share.
#pragma once

#include "omni/audio_encoder.h"

#include <memory>
#include <span>
#include <vector>

#include "audio/encoder.h"
#include "base/graph.h"

namespace omni {

struct AudioEncoder::Impl {
  Impl(std::shared_ptr<const GgufFile> file, const AudioEncoderOptions& options);

  EncoderShape clip_shape(int64_t frames, int64_t batch_frames, int64_t chunk) const;
  // `piece` is [frames, bins]; zeros fill it up to the shape, or its end is dropped.
  void set_clip_inputs(const EncoderTensors& t, const EncoderShape& shape, std::span<const float> piece,
                       int64_t chunk);

  AudioEncoderOptions options;
  ggml_type kv_type;
  std::shared_ptr<Device> device;
  std::shared_ptr<const GgufFile> file;
  Encoder encoder;
  std::shared_ptr<Executor> executor;
  LogMel mel;
  AudioEncoderInfo info;

  // Used under the executor's mutex, like the buffers below.
  GraphCache<EncoderTensors> clips;
  std::vector<float> padded;
  std::vector<int32_t> rows;
  std::vector<int32_t> seen;
  std::vector<ggml_fp16_t> mask;
};

}  // namespace omni
