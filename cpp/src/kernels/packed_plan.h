// kernels/packed_plan.h - numbers for a graph's own operators, which carry nothing but a pointer.
#pragma once

#include <cstring>
#include <type_traits>

namespace omni {

template <typename T>
void* as_pointer(const T& value) {
  static_assert(sizeof(T) <= sizeof(void*) && std::is_trivially_copyable_v<T>);
  void* p = nullptr;
  std::memcpy(&p, &value, sizeof(value));
  return p;
}

template <typename T>
T from_pointer(const void* p) {
  T value;
  std::memcpy(&value, &p, sizeof(value));
  return value;
}

}  // namespace omni
