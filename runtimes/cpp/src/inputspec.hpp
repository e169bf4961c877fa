#ifndef NTRE_SRC_INPUTSPEC_HPP
#define NTRE_SRC_INPUTSPEC_HPP

#include <array>

namespace ntre {

// beyond what any machine can train
constexpr int MAX_INPUT_SIZE = 4097;

// What the network takes: RGB, (pixel - mean) / std with pixels in 0..255, a square of `size` pixels.
struct InputSpec {
    int size = 0;
    std::array<double, 3> mean{};
    std::array<double, 3> std{};
};

}  // namespace ntre

#endif
