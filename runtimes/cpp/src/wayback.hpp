// The way back from feature resolution to the photo along one axis, as Python's `runtime.labels.back_map`.
#pragma once

#include <cstddef>
#include <vector>

namespace ntre {

// Of each pixel the features that its value is a mean of.
struct WayBack {
  // neighbouring pixels of the same features: `taps` of them, from `first`
  struct Run {
    int begin, end, first, taps;
  };

  int length;
  std::vector<Run> runs;
  std::vector<float> shares;  // [most taps of a run, length]

  const float* share(int tap) const { return shares.data() + static_cast<std::ptrdiff_t>(tap) * length; }
};

// Features are resized to the input's `size` with aligned corners, the first `inner` pixels of that to the original
// `length` with pixel centres aligned.
WayBack way_back(int length, int inner, int size, int features);

}  // namespace ntre
