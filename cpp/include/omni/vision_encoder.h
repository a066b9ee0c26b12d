// The vision encoder: pictures to embeddings for the language model.
#pragma once

#include "omni/devices.h"
#include "omni/export.h"
#include "omni/vision.h"

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace omni {

struct VisionEncoderOptions {
  // How weights are held: "stored" (as in the file), "bf16", "q8_0", or "auto": F16 as BF16 where the
  // processor multiplies BF16 natively (see kernels/linear.h).
  std::string weight_format = "auto";
  bool repack = true;  // let quantised weights be copied into a layout with faster kernels
  int max_batch = 0;   // slices of one shape that are computed at once; 0: 1 on the processor, 16 elsewhere
  DeviceOptions device;
};

// What an encoder is made of, from its file.
struct VisionEncoderInfo {
  int64_t n_layers = 0;
  int64_t width = 0;  // of the transformer
  int64_t ffn_width = 0;
  int64_t n_heads = 0;
  int64_t n_queries = 0;       // embeddings for each slice
  int64_t embed_width = 0;     // D, the width of the language model
  int64_t table_side = 0;      // rows of the position table along one side
  int scale_resolution = 448;  // pixels
  int patch_size = 14;         // pixels
  uint64_t parameters = 0;
  uint64_t file_bytes = 0;
  uint64_t copied_bytes = 0;  // weights held a second time, converted or repacked
  // What every slice multiplies with: bytes, and the type that most of it has.
  uint64_t matrix_bytes = 0;
  std::string matrix_type;
};

// Sizes for an encoder with random weights, to measure a machine without a file. Defaults: MiniCPM-o 4.5.
struct SyntheticVisionEncoder {
  std::string type = "F16";  // F32, F16, BF16 or Q8_0
  int64_t n_layers = 27;
  int64_t width = 1152;
  int64_t ffn_width = 4304;
  int64_t n_heads = 16;
  int64_t n_queries = 64;
  int64_t embed_width = 4096;
};

// Weights of a vision encoder: a SigLIP2 transformer for any aspect ratio, and a resampler that makes a fixed
// number of embeddings of every slice. Keeps no state between pictures. Calls from several threads run one
// after another.
class OMNI_API VisionEncoder {
 public:
  // Opens a GGUF file. Throws Error: file, format, unsupported, out_of_memory, invalid_argument.
  static std::shared_ptr<VisionEncoder> open(const std::string& path,
                                             const VisionEncoderOptions& options = {});
  // An encoder with random weights of the given sizes, in memory.
  static std::shared_ptr<VisionEncoder> synthetic(const SyntheticVisionEncoder& sizes,
                                                  const VisionEncoderOptions& options = {});
  ~VisionEncoder();
  VisionEncoder(const VisionEncoder&) = delete;
  VisionEncoder& operator=(const VisionEncoder&) = delete;

  const VisionEncoderInfo& info() const;
  const PixelScale& pixel_scale() const;
  std::string device_name() const;

  // The options that this model slices with.
  SliceOptions slice_options(int max_slice_nums) const;

  // Slices an image and encodes it. `out` becomes [n_slices, n_queries, embed_width]; returns n_slices.
  size_t encode(const ImageView& image, int max_slice_nums, std::vector<float>& out);
  // The same for slices made before, of any images: `out` is [slices, n_queries, embed_width]. The sides of a
  // slice are multiples of the patch size. On an error `out` is undefined.
  void encode(std::span<const Image> slices, std::span<float> out);

  // An intermediate result for one slice, for inspection and tests, row by row of patches: "embeddings",
  // "layer.0" (after each layer), "tower" (after the last norm): [patches, width]; "attention": what the
  // resampler's queries find, before the last norm [n_queries, embed_width]; "positions": what is added to
  // its keys [patches, embed_width].
  std::vector<float> inspect(const Image& slice, const std::string& stage);

  struct Impl;

 private:
  explicit VisionEncoder(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace omni
