// Compute devices: which there are, and how to choose one.
#pragma once

#include "omni/export.h"

#include <cstdint>
#include <string>
#include <vector>

namespace omni {

struct DeviceOptions {
  std::string
      name;  // a name of list_devices(), or "" for the host processor, or "gpu" for the first accelerator
  int n_threads = 0;  // threads on the host processor; 0: one for each physical core
  // How long idle threads spin before they sleep, 0 to 100. 1 is some milliseconds, more than the pause
  // between two tokens. Each network has threads of its own: with 50 they spun into the next network's turn,
  // which made a second of speech 1.4 times as long on two cores.
  int poll = 1;
};

struct DeviceInfo {
  std::string name;
  std::string description;
  std::string kind;           // "cpu", "gpu", "igpu" or "accel"
  uint64_t memory_free = 0;   // bytes; 0 if unknown
  uint64_t memory_total = 0;  // bytes; 0 if unknown
};

OMNI_API std::vector<DeviceInfo> list_devices();

// Instruction sets of the host processor that this build uses, as ggml names them ("AVX2", "AVX512_VNNI",
// ...).
OMNI_API std::vector<std::string> cpu_features();

// Physical cores that this process may use, at least 1.
OMNI_API int default_threads();

}  // namespace omni
