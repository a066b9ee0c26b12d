// token2wav/resample.h - a change of the sample rate by windowed sinc interpolation.
#pragma once

#include <span>
#include <vector>

namespace omni {

// As the reference resamples a recording: a sinc of 6 zero crossings with a squared cosine window, cut off at
// 0.99 of the lower Nyquist frequency; zeros around the signal. Returns ceil(n * to / from) samples. Throws
// Error(invalid_argument) unless both rates are positive.
std::vector<float> sinc_resample(std::span<const float> samples, int from, int to);

}  // namespace omni
