// capi/vision.cpp - the C interface: vision encoder.
#include "omni/omni.h"
#include "omni/vision_encoder.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "capi/guard.h"
#include "capi/handles.h"

using namespace omni::capi;

omni_vision_params omni_vision_default_params(void) {
  const omni::VisionEncoderOptions d;
  return {d.device.n_threads, d.device.poll, nullptr, "auto", d.repack ? 1 : 0, d.max_batch};
}

omni_status omni_vision_open(const char* path, const omni_vision_params* params, omni_vision** vision) {
  return guarded([&] {
    require_pointer(path, "path");
    require_pointer(vision, "vision");
    const omni_vision_params p = params != nullptr ? *params : omni_vision_default_params();
    omni::VisionEncoderOptions options;
    options.device = {text_or(p.device, ""), p.n_threads, p.poll};
    options.weight_format = text_or(p.weight_format, "auto");
    options.repack = p.repack != 0;
    options.max_batch = p.max_batch;
    *vision = std::make_unique<omni_vision>(omni_vision{omni::VisionEncoder::open(path, options)}).release();
  });
}

void omni_vision_free(omni_vision* vision) {
  const std::unique_ptr<omni_vision> owned(vision);
}

int64_t omni_vision_width(const omni_vision* vision) {
  return vision == nullptr ? 0 : vision->encoder->info().embed_width;
}
int64_t omni_vision_n_queries(const omni_vision* vision) {
  return vision == nullptr ? 0 : vision->encoder->info().n_queries;
}

omni_status omni_vision_encode(const omni_vision* vision, const omni_image* image, int32_t max_slice_nums,
                               float* embeds, size_t capacity, omni_slices* slices) {
  return guarded([&] {
    require_pointer(vision, "vision");
    require_pointer(image, "image");
    require_pointer(image->rgb, "image->rgb");
    require_pointer(slices, "slices");
    require_array(embeds, capacity, "embeds");
    omni::VisionEncoder& encoder = *vision->encoder;
    const omni::ImageView view{image->rgb, image->width, image->height, image->stride};
    const omni::SliceOptions options = encoder.slice_options(max_slice_nums);
    const omni::SlicePlan plan = omni::plan_slices({view.width, view.height}, options);
    const auto count = static_cast<size_t>(plan.count());
    if (capacity > 0) {
      std::vector<omni::Image> pictures = omni::slice_image(view, options);
      pictures.resize(std::min(capacity, count));
      const auto values = static_cast<size_t>(encoder.info().n_queries * encoder.info().embed_width);
      // Not into `embeds` at once: it is untouched on failure.
      std::vector<float> rows(pictures.size() * values);
      encoder.encode(pictures, rows);
      std::copy(rows.begin(), rows.end(), embeds);
    }
    *slices = {count, plan.columns, plan.rows};
  });
}
