// The instructions of mma.cuh, element by element as the PTX manual lays them out ("Matrix fragments for mma.m16n8k16",
// "ldmatrix"). Products of halves are exact in float32; sums are float32.
#pragma once

#include <deque>
#include <map>
#include <vector>

#include "emulator.hpp"

namespace ntre {

// Copies are done at the last moment that the hardware may do them, so a missing wait reads old data.
struct Copy {
  void* to;
  const void* from;
  bool inside;
};
inline std::deque<std::vector<Copy>>& open_groups() {
  static std::map<const emulator::Thread*, std::deque<std::vector<Copy>>> groups;
  auto& own = groups[emulator::current];
  if (own.empty()) own.emplace_back();
  return own;
}

inline void copy16(void* to, const void* from, bool inside) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0) emulated_misaligned(to, 16);
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) emulated_misaligned(from, 16);
  open_groups().back().push_back({to, from, inside});
}

inline void commit_copies() { open_groups().emplace_back(); }

template <int kPending> void wait_copies() {
  auto& groups = open_groups();  // the last one is not committed yet
  while (groups.size() > kPending + 1) {
    for (const Copy& copy : groups.front()) {
      copy.inside ? std::memcpy(copy.to, copy.from, 16) : std::memset(copy.to, 0, 16);
    }
    groups.pop_front();
  }
}

inline void load_transposed(unsigned (&to)[4], const half* from) {
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) emulated_misaligned(from, 16);
  emulator::exchange(&from, sizeof(from), [&](auto of) {
    const unsigned lane = emulator::current->lane;
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
      to[matrix] = 0;
      for (unsigned i = 0; i < 2; ++i) {
        const half* row;
        std::memcpy(&row, of(8 * matrix + 2 * (lane % 4) + i), sizeof(row));
        to[matrix] |= static_cast<unsigned>(row[lane / 4].bits) << (16 * i);
      }
    }
  });
}

inline float half_of(unsigned word, unsigned i) { return __half2float({static_cast<uint16_t>(word >> (16 * i))}); }

inline void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  const unsigned own[6] = {a[0], a[1], a[2], a[3], b0, b1};
  emulator::exchange(own, sizeof(own), [&](auto of) {
    const unsigned g = emulator::current->lane / 4, t = emulator::current->lane % 4;
    const auto word = [&](unsigned lane, unsigned index) {
      unsigned value;
      std::memcpy(&value, of(lane) + 4 * index, 4);
      return value;
    };
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
      for (unsigned k = 0; k < 16; ++k) {
        // a: register 0 or 1 by row, + 2 for the upper channels; b: register 4, or 5 for the upper channels
        const float left = half_of(word(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2), k % 2);
        const float right = half_of(word(column * 4 + k % 8 / 2, 4 + k / 8), k % 2);
        c[i] += left * right;
      }
    }
  });
}

}  // namespace ntre
