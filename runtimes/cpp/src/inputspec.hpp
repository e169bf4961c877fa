#pragma once

#include <array>

namespace ntre {

// beyond what any machine can train
constexpr int kMaxInputSize = 4097;

// What the network takes: RGB, (pixel - mean) / std with pixels in 0..255, a square of `size` pixels.
struct InputSpec {
  int size = 0;
  std::array<double, 3> mean{};
  std::array<double, 3> std{};
};

}  // namespace ntre
