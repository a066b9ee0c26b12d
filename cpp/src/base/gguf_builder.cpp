// base/gguf_builder.cpp - laying a GGUF file out in memory.
#include "base/gguf_builder.h"

#include "omni/error.h"

#include <cstring>
#include <new>

namespace omni {
namespace {

constexpr size_t kAlignment = 32;  // the format's default

size_t aligned(size_t size) {
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

template <typename T>
void put(std::vector<uint8_t>& bytes, T value) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof(T));
  std::memcpy(bytes.data() + at, &value, sizeof(T));
}

void put_text(std::vector<uint8_t>& bytes, const std::string& text) {
  put<uint64_t>(bytes, text.size());
  bytes.insert(bytes.end(), text.begin(), text.end());
}

}  // namespace

void GgufBuilder::key(const std::string& name, uint32_t type) {
  ++n_keys_;
  put_text(keys_, name);
  put<uint32_t>(keys_, type);
}

void GgufBuilder::set(const std::string& name, uint32_t value) {
  key(name, 4);
  put(keys_, value);
}

void GgufBuilder::set(const std::string& name, float value) {
  key(name, 6);
  put(keys_, value);
}

void GgufBuilder::set(const std::string& name, const std::string& value) {
  key(name, 8);
  put_text(keys_, value);
}

void GgufBuilder::set(const std::string& name, const std::vector<float>& values) {
  key(name, 9);
  put<uint32_t>(keys_, 6);
  put<uint64_t>(keys_, values.size());
  for (const float v : values) put(keys_, v);
}

void GgufBuilder::tensor(const std::string& name, ggml_type type, std::vector<int64_t> ne) {
  records_.push_back({name, type, std::move(ne)});
}

GgufBuilder::Layout GgufBuilder::lay_out() const {
  std::vector<uint8_t> head = {'G', 'G', 'U', 'F'};
  put<uint32_t>(head, 3);
  put<uint64_t>(head, records_.size());
  put<uint64_t>(head, n_keys_);
  head.insert(head.end(), keys_.begin(), keys_.end());
  size_t offset = 0;
  for (const Record& r : records_) {
    put_text(head, r.name);
    put<uint32_t>(head, static_cast<uint32_t>(r.ne.size()));
    size_t size = ggml_row_size(r.type, r.ne.front());
    for (size_t d = 0; d < r.ne.size(); ++d) {
      put<uint64_t>(head, static_cast<uint64_t>(r.ne[d]));
      if (d > 0) size *= static_cast<size_t>(r.ne[d]);
    }
    put<uint32_t>(head, static_cast<uint32_t>(r.type));
    put<uint64_t>(head, offset);
    offset += aligned(size);
  }
  head.resize(aligned(head.size()));
  Layout layout;
  layout.size = head.size() + offset;
  // Page alignment, so that the bytes can stand in for a mapped file.
  constexpr size_t kPage = 4096;
  auto* bytes = static_cast<uint8_t*>(::operator new (layout.size, std::align_val_t{kPage}, std::nothrow));
  require(bytes != nullptr, ErrorCode::out_of_memory, "not enough memory for a model of ", layout.size,
          " bytes");
  layout.bytes.reset(bytes, [](uint8_t* p) { ::operator delete (p, std::align_val_t{kPage}); });
  std::memcpy(bytes, head.data(), head.size());
  return layout;
}

std::shared_ptr<const GgufFile> GgufBuilder::finish(const Layout& layout, const std::string& name) {
  // The file and its bytes share one life.
  struct Holder {
    std::shared_ptr<uint8_t> bytes;
    GgufFile file;
  };
  const std::span<const uint8_t> view(layout.bytes.get(), layout.size);
  auto holder = std::make_shared<Holder>(Holder{layout.bytes, GgufFile(view, name)});
  return {holder, &holder->file};
}

}  // namespace omni
