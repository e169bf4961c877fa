#include "stacked.hpp"

#include <algorithm>

namespace ntre {

namespace {

std::size_t needed(const Keys& keys) {
  // a target that vanished still takes part, with a chunk of zeros
  return std::max<std::size_t>((keys.count + kChunk - 1) / kChunk, 1);
}

}  // namespace

std::size_t padded(std::size_t chunks) {
  // few distinct numbers mean few shapes for an engine to plan for: 1 to 8, 10, 12, 14, 16, 20, ...
  if (chunks <= 4) return chunks;
  for (std::size_t octave = 0;; ++octave)
    for (std::size_t quarter = 4; quarter < 8; ++quarter)
      if (quarter << octave >= chunks) return quarter << octave;
}

StackedSupports stack(const Memories& memories) {
  StackedSupports out;
  out.classes = memories.size();
  out.channels = memories[0]->prototype.size();
  out.depth = memories[0]->keys[0].depth;
  std::size_t total = 0;
  for (const auto& memory : memories) {
    out.prototypes.insert(out.prototypes.end(), memory->prototype.begin(), memory->prototype.end());
    out.shots = std::max(out.shots, memory->keys.size());
    for (const Keys& own : memory->keys) {
      total += needed(own);
      out.longest = std::max(out.longest, needed(own));
    }
  }
  out.count = padded(total);
  out.longest = padded(out.longest);
  out.keys.assign(out.count * kChunk * out.depth, 0.0F);
  out.chunks.assign(out.classes * out.shots * out.longest, -1);
  std::size_t start = 0;
  for (std::size_t n = 0; n < out.classes; ++n) {
    for (std::size_t k = 0; k < memories[n]->keys.size(); ++k) {
      const Keys& own = memories[n]->keys[k];
      float* const rows = out.keys.data() + start * kChunk * out.depth;
      for (std::size_t d = 0; d < own.depth; ++d)
        for (std::size_t m = 0; m < own.count; ++m) rows[m * out.depth + d] = own.data[d * own.count + m];
      std::int32_t* const table = out.chunks.data() + (n * out.shots + k) * out.longest;
      for (std::size_t q = 0; q < out.longest; ++q)
        table[q] = static_cast<std::int32_t>(start + (q < needed(own) ? q : 0));
      start += needed(own);
    }
  }
  return out;
}

}  // namespace ntre
