// base/gguf_file.cpp - the GGUF parser. Every count, length and offset is checked against the file's size
// before use.
#include "base/gguf_file.h"

#include "omni/error.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/mapped_file.h"

static_assert(std::endian::native == std::endian::little, "GGUF files are read in place as little endian");

namespace omni {
namespace {

// Value types of the format.
enum : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// Bytes of one element, 0 for strings, arrays and unknown types.
size_t scalar_size(uint32_t type) {
  switch (type) {
    case kU8:
    case kI8:
    case kBool:
      return 1;
    case kU16:
    case kI16:
      return 2;
    case kU32:
    case kI32:
    case kF32:
      return 4;
    case kU64:
    case kI64:
    case kF64:
      return 8;
    default:
      return 0;
  }
}

template <typename T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// A scalar integer widened to 64 bits; false for other types.
bool load_integer(uint32_t type, const uint8_t* at, int64_t& out) {
  switch (type) {
    case kU8:
      out = load<uint8_t>(at);
      return true;
    case kI8:
      out = load<int8_t>(at);  // NOLINT(bugprone-signed-char-misuse): a number
      return true;
    case kU16:
      out = load<uint16_t>(at);
      return true;
    case kI16:
      out = load<int16_t>(at);
      return true;
    case kU32:
      out = load<uint32_t>(at);
      return true;
    case kI32:
      out = load<int32_t>(at);
      return true;
    case kI64:
      out = load<int64_t>(at);
      return true;
    case kU64: {
      const auto wide = load<uint64_t>(at);
      if (wide > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
      out = static_cast<int64_t>(wide);
      return true;
    }
    default:
      return false;
  }
}

constexpr uint64_t kMaxNameLength =
    65535;  // the format's limit for keys; names in practice have fewer than 64

}  // namespace

std::string shape_text(std::span<const int64_t> ne) {
  std::string out = "[";
  for (size_t i = 0; i < ne.size(); ++i) out += (i != 0 ? ", " : "") + std::to_string(ne[i]);
  return out + "]";
}

// Reads forward through the file and throws with the position when something does not fit.
class GgufFile::Reader {
 public:
  Reader(std::span<const uint8_t> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  uint64_t position() const { return at_; }
  uint64_t remaining() const { return bytes_.size() - at_; }

  template <typename... Parts>
  [[noreturn]] void bad(const Parts&... parts) const {
    fail(ErrorCode::format, path_, ": damaged GGUF file: ", parts..., " (at byte ", at_, ")");
  }

  std::span<const uint8_t> take(uint64_t size, const char* what) {
    if (size > remaining())
      bad(what, " needs ", size, " bytes, the file has ", remaining(), " left; is it truncated?");
    const auto part = bytes_.subspan(at_, size);
    at_ += size;
    return part;
  }

  template <typename T>
  T scalar(const char* what) {
    return load<T>(take(sizeof(T), what).data());
  }

  std::string_view string(const char* what, uint64_t limit = std::numeric_limits<uint64_t>::max()) {
    const auto length = scalar<uint64_t>(what);
    if (length > limit) bad(what, " is ", length, " bytes long");
    const auto part = take(length, what);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }

  Value value(uint32_t type) {
    int64_t integer = 0;
    switch (type) {
      case kF32:
        return static_cast<double>(scalar<float>("a float value"));
      case kF64:
        return scalar<double>("a float value");
      case kU64:
        return scalar<uint64_t>("an integer value");
      case kString:
        return string("a text value");
      case kArray:
        return array();
      case kBool: {
        const auto flag = scalar<uint8_t>("a boolean value");
        if (flag > 1) bad("a boolean has the value ", int{flag});
        return flag == 1;
      }
      default: {
        const size_t size = scalar_size(type);
        if (size == 0) bad("unknown value type ", type);
        load_integer(type, take(size, "an integer value").data(), integer);
        return integer;
      }
    }
  }

 private:
  Array array() {
    Array result;
    result.type = scalar<uint32_t>("an array's type");
    result.count = scalar<uint64_t>("an array's length");
    const uint64_t start = at_;
    if (result.type == kString) {
      // Each string takes at least its 8-byte length, so a hostile count can't make the loop long.
      if (result.count > remaining() / 8) bad("an array claims ", result.count, " strings");
      for (uint64_t i = 0; i < result.count; ++i) string("a string in an array");
    } else {
      const size_t size = scalar_size(result.type);
      if (size == 0) bad("arrays of type ", result.type, " are not supported");
      if (result.count > remaining() / size) bad("an array claims ", result.count, " elements");
      take(result.count * size, "an array");
    }
    result.bytes = bytes_.subspan(start, at_ - start);
    return result;
  }

  std::span<const uint8_t> bytes_;
  const std::string& path_;
  uint64_t at_ = 0;
};

GgufFile::GgufFile(const std::string& path) : path_(path), mapping_(std::make_unique<MappedFile>(path)) {
  bytes_ = mapping_->bytes();
  parse();
}

GgufFile::GgufFile(std::span<const uint8_t> bytes, std::string name) : path_(std::move(name)), bytes_(bytes) {
  parse();
}

GgufFile::~GgufFile() = default;
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;

void GgufFile::parse() {
  Reader in(bytes_, path_);
  if (bytes_.size() < 24 || std::memcmp(bytes_.data(), "GGUF", 4) != 0) {
    fail(ErrorCode::format, path_, ": not a GGUF file (no GGUF magic at its start)");
  }
  in.take(4, "the magic");
  const auto version = in.scalar<uint32_t>("the version");
  if (version != 3) {
    if ((version & 0xFFFFU) == 0) in.bad("the file is big endian, which is not supported");
    in.bad("GGUF version ", version, "; only version 3 is supported, convert the model again");
  }
  const auto n_tensors = in.scalar<uint64_t>("the tensor count");
  const auto n_values = in.scalar<uint64_t>("the key count");
  // The smallest key takes 8 + 4 + 1 bytes, the smallest tensor record 8 + 4 + 8 + 4 + 8.
  if (n_values > in.remaining() / 13) in.bad("it claims ", n_values, " keys");
  if (n_tensors > in.remaining() / 32) in.bad("it claims ", n_tensors, " tensors");

  values_.reserve(n_values);
  for (uint64_t i = 0; i < n_values; ++i) {
    const std::string_view key = in.string("a key", kMaxNameLength);
    if (key.empty()) in.bad("an empty key");
    if (!value_index_.emplace(key, values_.size()).second) in.bad("key '", key, "' occurs twice");
    const auto type = in.scalar<uint32_t>("a value type");
    values_.emplace_back(key, in.value(type));
  }

  const uint32_t alignment = u32("general.alignment", 32);
  if (alignment == 0 || (alignment & (alignment - 1)) != 0)
    in.bad("alignment ", alignment, " is not a power of 2");

  tensors_.reserve(n_tensors);
  for (uint64_t i = 0; i < n_tensors; ++i) {
    GgufTensor t;
    t.name = in.string("a tensor name", kMaxNameLength);
    if (t.name.empty()) in.bad("a tensor without a name");
    if (t.name.size() >= GGML_MAX_NAME)
      in.bad("tensor name '", t.name, "' is longer than ", GGML_MAX_NAME - 1);
    if (!tensor_index_.emplace(t.name, tensors_.size()).second) in.bad("tensor '", t.name, "' occurs twice");
    const auto n_dims = in.scalar<uint32_t>("a dimension count");
    if (n_dims < 1 || n_dims > 4) in.bad("tensor '", t.name, "' has ", n_dims, " dimensions");
    t.n_dims = static_cast<int>(n_dims);
    uint64_t elements = 1;
    for (uint32_t d = 0; d < n_dims; ++d) {
      const auto extent = in.scalar<uint64_t>("a dimension");
      // 2^48 elements are far beyond any model and keep all later products within 64 bits.
      if (extent == 0 || extent > (uint64_t{1} << 48) || elements > (uint64_t{1} << 48) / extent) {
        in.bad("tensor '", t.name, "' has an impossible dimension ", extent);
      }
      elements *= extent;
      t.ne[d] = static_cast<int64_t>(extent);
    }
    const auto type = in.scalar<uint32_t>("a tensor type");
    t.type = static_cast<ggml_type>(type);
    if (type >= GGML_TYPE_COUNT || ggml_blck_size(t.type) == 0 || ggml_type_size(t.type) == 0) {
      in.bad("tensor '", t.name, "' has the unknown type ", type);
    }
    const int64_t block = ggml_blck_size(t.type);
    if (t.ne[0] % block != 0) {
      in.bad("tensor '", t.name, "' has rows of ", t.ne[0], " elements, which ", ggml_type_name(t.type),
             " (blocks of ", block, ") can't hold");
    }
    t.size = elements / static_cast<uint64_t>(block) * ggml_type_size(t.type);
    t.offset = in.scalar<uint64_t>("a tensor offset");
    if (t.offset % alignment != 0) in.bad("tensor '", t.name, "' is not aligned to ", alignment, " bytes");
    tensors_.push_back(t);
  }

  if (n_tensors == 0) return;
  const uint64_t data_start = (in.position() + alignment - 1) / alignment * alignment;
  if (data_start > bytes_.size()) in.bad("the tensor data is missing; is it truncated?");
  const uint64_t data_size = bytes_.size() - data_start;
  for (GgufTensor& t : tensors_) {
    if (t.offset > data_size || t.size > data_size - t.offset) {
      fail(ErrorCode::format, path_, ": damaged GGUF file: tensor '", t.name, "' ends at byte ",
           data_start + t.offset + t.size, ", the file has ", bytes_.size(), "; is it truncated?");
    }
    t.offset += data_start;
    t.data = bytes_.data() + t.offset;
  }
}

bool GgufFile::has(std::string_view key) const {
  return find(key) != nullptr;
}

std::vector<std::string_view> GgufFile::keys() const {
  std::vector<std::string_view> out;
  out.reserve(values_.size());
  for (const auto& [key, value] : values_) out.push_back(key);
  return out;
}

const GgufFile::Value* GgufFile::find(std::string_view key) const {
  const auto it = value_index_.find(key);
  return it == value_index_.end() ? nullptr : &values_[it->second].second;
}

const GgufFile::Value& GgufFile::value(std::string_view key) const {
  const Value* found = find(key);
  if (found == nullptr) bad_key(key, "is missing; is this the right kind of model file?");
  return *found;
}

void GgufFile::bad_key(std::string_view key, const std::string& what) const {
  fail(ErrorCode::format, path_, ": key '", key, "' ", what);
}

uint32_t GgufFile::u32(std::string_view key) const {
  const Value& v = value(key);
  uint64_t wide = 0;
  if (const auto* u = std::get_if<uint64_t>(&v)) {
    wide = *u;
  } else if (const auto* i = std::get_if<int64_t>(&v)) {
    if (*i < 0) bad_key(key, str("is negative: ", *i));
    wide = static_cast<uint64_t>(*i);
  } else {
    bad_key(key, "is not an integer");
  }
  if (wide > std::numeric_limits<uint32_t>::max()) bad_key(key, str("is too large: ", wide));
  return static_cast<uint32_t>(wide);
}

uint32_t GgufFile::u32(std::string_view key, uint32_t fallback) const {
  return has(key) ? u32(key) : fallback;
}

float GgufFile::f32(std::string_view key) const {
  const auto* number = std::get_if<double>(&value(key));
  if (number == nullptr) bad_key(key, "is not a float");
  if (!std::isfinite(*number)) bad_key(key, "is not a finite number");
  return static_cast<float>(*number);
}

float GgufFile::f32(std::string_view key, float fallback) const {
  return has(key) ? f32(key) : fallback;
}

bool GgufFile::boolean(std::string_view key, bool fallback) const {
  const Value* v = find(key);
  if (v == nullptr) return fallback;
  if (const auto* flag = std::get_if<bool>(v)) return *flag;
  if (std::holds_alternative<int64_t>(*v) || std::holds_alternative<uint64_t>(*v)) return u32(key) != 0;
  bad_key(key, "is not a boolean");
}

std::string_view GgufFile::text(std::string_view key) const {
  const auto* string = std::get_if<std::string_view>(&value(key));
  if (string == nullptr) bad_key(key, "is not a text");
  return *string;
}

std::string_view GgufFile::text(std::string_view key, std::string_view fallback) const {
  return has(key) ? text(key) : fallback;
}

const GgufFile::Array& GgufFile::array(std::string_view key, const char* wanted) const {
  const auto* found = std::get_if<Array>(&value(key));
  if (found == nullptr) bad_key(key, str("is not an array of ", wanted));
  return *found;
}

std::vector<std::string_view> GgufFile::texts(std::string_view key) const {
  const Array& a = array(key, "texts");
  if (a.type != kString) bad_key(key, "is not an array of texts");
  std::vector<std::string_view> out;
  out.reserve(a.count);
  Reader in(a.bytes, path_);
  for (uint64_t i = 0; i < a.count; ++i) out.push_back(in.string("a string in an array"));
  return out;
}

std::vector<int32_t> GgufFile::i32s(std::string_view key) const {
  const Array& a = array(key, "integers");
  const size_t size = scalar_size(a.type);
  std::vector<int32_t> out;
  out.reserve(a.count);
  for (uint64_t i = 0; i < a.count; ++i) {
    int64_t wide = 0;
    if (size == 0 || !load_integer(a.type, a.bytes.data() + i * size, wide))
      bad_key(key, "is not an array of integers");
    if (wide < std::numeric_limits<int32_t>::min() || wide > std::numeric_limits<int32_t>::max()) {
      bad_key(key, str("has the too large element ", wide));
    }
    out.push_back(static_cast<int32_t>(wide));
  }
  return out;
}

std::vector<float> GgufFile::f32s(std::string_view key) const {
  const Array& a = array(key, "floats");
  if (a.type != kF32) bad_key(key, "is not an array of 32-bit floats");
  std::vector<float> out(a.count);
  if (a.count != 0) std::memcpy(out.data(), a.bytes.data(), a.count * sizeof(float));
  return out;
}

std::string GgufFile::describe(std::string_view key) const {
  struct Describer {
    std::string operator()(uint64_t v) const { return std::to_string(v); }
    std::string operator()(int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return str(v); }
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(std::string_view v) const { return std::string(v); }
    std::string operator()(const Array& a) const {
      const char* kind = a.type == kString                  ? "texts"
                         : a.type == kF32 || a.type == kF64 ? "floats"
                                                            : "integers";
      return str("[", a.count, " ", kind, "]");
    }
  };
  return std::visit(Describer{}, value(key));
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const GgufTensor& GgufFile::tensor(std::string_view name) const {
  const GgufTensor* found = find_tensor(name);
  require(found != nullptr, ErrorCode::format, path_, ": tensor '", name,
          "' is missing; is this the right kind of model file?");
  return *found;
}

const GgufTensor& GgufFile::tensor(std::string_view name, std::initializer_list<int64_t> ne) const {
  const GgufTensor& t = tensor(name);
  std::array<int64_t, 4> wanted{1, 1, 1, 1};
  std::copy(ne.begin(), ne.end(), wanted.begin());
  require(t.ne == wanted, ErrorCode::format, path_, ": tensor '", name, "' has shape ",
          shape_text(std::span(t.ne).first(static_cast<size_t>(t.n_dims))), ", expected ",
          shape_text(std::span(ne.begin(), ne.size())));
  return t;
}

void GgufFile::save(const std::string& path) const {
  std::ofstream out(std::filesystem::path(std::u8string(path.begin(), path.end())), std::ios::binary);
  out.write(reinterpret_cast<const char*>(bytes_.data()), static_cast<std::streamsize>(bytes_.size()));
  out.close();
  require(!out.fail(), ErrorCode::file, path, ": can't be written");
}

void GgufFile::drop_pages(const GgufTensor& tensor) const {
  if (mapping_) mapping_->drop_pages(tensor.offset, tensor.size);
}

}  // namespace omni
