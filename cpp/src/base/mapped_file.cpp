// base/mapped_file.cpp - mmap on POSIX, file mappings on Windows.
#include "base/mapped_file.h"

#include "omni/error.h"

#include <utility>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace omni {

#if defined(_WIN32)

namespace {
struct HandleCloser {
  HANDLE handle;
  ~HandleCloser() {
    if (handle != nullptr && handle != INVALID_HANDLE_VALUE) CloseHandle(handle);
  }
};
}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path.c_str(), -1, nullptr, 0);
  require(length > 0, ErrorCode::file, "path is not valid UTF-8: ", path);
  std::wstring wide(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path.c_str(), -1, wide.data(), length);
  const HandleCloser file{CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING,
                                      FILE_ATTRIBUTE_NORMAL, nullptr)};
  require(file.handle != INVALID_HANDLE_VALUE, ErrorCode::file, path, ": can't open (error ", GetLastError(),
          ")");
  LARGE_INTEGER size;
  require(GetFileSizeEx(file.handle, &size) != 0, ErrorCode::file, path, ": can't read its size");
  require(size.QuadPart > 0, ErrorCode::format, path, ": the file is empty");
  const HandleCloser mapping{CreateFileMappingW(file.handle, nullptr, PAGE_READONLY, 0, 0, nullptr)};
  require(mapping.handle != nullptr, ErrorCode::file, path, ": can't map (error ", GetLastError(), ")");
  data_ = static_cast<const uint8_t*>(MapViewOfFile(mapping.handle, FILE_MAP_READ, 0, 0, 0));
  require(data_ != nullptr, ErrorCode::file, path, ": can't map (error ", GetLastError(), ")");
  size_ = static_cast<size_t>(size.QuadPart);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) UnmapViewOfFile(data_);
}

void MappedFile::drop_pages(size_t offset, size_t size) const {
  // Unlocking pages that are not locked removes them from the working set; the error it reports is expected.
  if (data_ != nullptr && offset <= size_ && size <= size_ - offset) {
    VirtualUnlock(const_cast<uint8_t*>(data_) + offset, size);
  }
}

#else

MappedFile::MappedFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0, ErrorCode::file, path, ": can't open: ", std::strerror(errno));
  struct stat info {};
  const bool known = ::fstat(fd, &info) == 0;
  const bool regular = known && S_ISREG(info.st_mode);
  void* mapped = MAP_FAILED;
  int reason = 0;
  if (regular && info.st_size > 0) {
    mapped = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, fd, 0);
    reason = errno;
  }
  ::close(fd);
  require(regular, ErrorCode::file, path, ": is not a regular file");
  require(info.st_size > 0, ErrorCode::format, path, ": the file is empty");
  require(mapped != MAP_FAILED, ErrorCode::file, path, ": can't map: ", std::strerror(reason));
  data_ = static_cast<const uint8_t*>(mapped);
  size_ = static_cast<size_t>(info.st_size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

void MappedFile::drop_pages(size_t offset, size_t size) const {
  if (data_ == nullptr || offset > size_ || size > size_ - offset) return;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t first = (offset + page - 1) / page * page;
  const size_t last = (offset + size) / page * page;
  if (first < last) ::madvise(const_cast<uint8_t*>(data_) + first, last - first, MADV_DONTNEED);
}

#endif

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace omni
