// Supports of several classes as the query graph takes them, as Python's `runtime.stacked`: all keys in one array, cut
// into chunks of one size, and a table that says which are whose.
#pragma once

#include <cstdint>
#include <vector>

#include "memory.hpp"

namespace ntre {

constexpr std::size_t kChunk = 32;

// Supports of N classes with up to K shots each.
struct StackedSupports {
  std::vector<float> prototypes;     // [classes, channels]
  std::vector<float> keys;           // [count, kChunk, depth], rows of norm 1 or zeros
  std::vector<std::int32_t> chunks;  // [classes, shots, longest]: a shot's chunks, its first repeated; -1 for no shot
  std::size_t classes = 0;
  std::size_t channels = 0;
  std::size_t count = 0;
  std::size_t depth = 0;
  std::size_t shots = 0;
  std::size_t longest = 0;
};

// Of memories with equal channels and depths, one at least.
StackedSupports stack(const Memories& memories);

// The number of chunks, of all shots or of the largest one, that so many are stacked to.
std::size_t padded(std::size_t chunks);

}  // namespace ntre
