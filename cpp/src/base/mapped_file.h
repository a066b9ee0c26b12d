// base/mapped_file.h - a file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace omni {

// Owns a read-only mapping of a whole file. Paths are UTF-8 on every system. Move-only.
class MappedFile {
 public:
  // Throws Error(file) if the file is missing, is not a regular file, or can't be mapped.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return {data_, size_}; }

  // Tells the system that these bytes won't be read soon, so that their pages leave resident memory. They are
  // read from the file again if touched. `offset` and `size` are in bytes; partly covered pages are kept.
  void drop_pages(size_t offset, size_t size) const;

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace omni
