// What the host processor can do at most: the yardstick of every measurement.
#pragma once

#include "omni/export.h"

namespace omni {

// Arithmetic in 10^9 operations a second (a multiply-add counts as two), memory in 10^9 bytes a second. 0:
// the processor has no instruction for it.
struct MachinePeaks {
  double f32 = 0;
  double bf16 = 0;
  double int8 = 0;
  double memory_read = 0;
};

// Measures with `n_threads` threads (0: one for each physical core), about `seconds` for each figure, keeping
// the best of several rounds: a peak is what the machine does when nothing disturbs it.
OMNI_API MachinePeaks measure_peaks(int n_threads = 0, double seconds = 0.3);

}  // namespace omni
