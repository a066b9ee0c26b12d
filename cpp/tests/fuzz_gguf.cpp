// tests/fuzz_gguf.cpp - hostile GGUF bytes: an Error, or a file whose parts can all be read.
#include "omni/error.h"
#include "omni/tokenizer.h"

#include <cstdint>
#include <span>

#include "base/gguf_file.h"

namespace {

void read_everything(const omni::GgufFile& file) {
  for (const auto key : file.keys()) {
    static_cast<void>(file.describe(key));
    // Each getter either understands the value or says that it doesn't.
    const auto attempt = [](auto&& get) {
      try {
        get();
      } catch (const omni::Error&) {
      }
    };
    attempt([&] { static_cast<void>(file.u32(key)); });
    attempt([&] { static_cast<void>(file.f32(key)); });
    attempt([&] { static_cast<void>(file.text(key)); });
    attempt([&] { static_cast<void>(file.texts(key)); });
    attempt([&] { static_cast<void>(file.i32s(key)); });
    attempt([&] { static_cast<void>(file.f32s(key)); });
  }
  volatile uint8_t sum = 0;
  for (const omni::GgufTensor& tensor : file.tensors()) {
    for (uint64_t i = 0; i < tensor.size; ++i) sum = static_cast<uint8_t>(sum + tensor.data[i]);
  }
  static_cast<void>(omni::Tokenizer(file).encode("text"));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    read_everything(omni::GgufFile(std::span(data, size), "fuzz.gguf"));
  } catch (const omni::Error&) {
  }
  return 0;
}
