// Four channels at a time: a pixel is what every loop over an image's columns takes, and compilers see no vector in
// three interleaved channels.
#pragma once

#include <cstdint>
#include <cstring>

// GCC has no pragma for it; CMakeLists.txt gives -ffp-contract=off, as a fused product rounds otherwise than OpenCV's
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

// The loops over rows, once more with AVX2 and chosen at load. Sanitizers start after such a choice is made, and clang
// has it since 14 only.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(NTRE_ONE_TARGET)
#define NTRE_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define NTRE_CLONES
#endif

// for what such a loop is made of: only code that is inlined is compiled for the same processor
#if defined(__GNUC__)
#define NTRE_INLINE inline __attribute__((always_inline))
#else
#define NTRE_INLINE inline
#endif

namespace ntre {

#if defined(__GNUC__)
using Four = float __attribute__((vector_size(16)));
using FourInts = std::int32_t __attribute__((vector_size(16)));
using FourShorts = std::int16_t __attribute__((vector_size(8)));
using FourBytes = std::uint8_t __attribute__((vector_size(4)));

NTRE_INLINE Four widened(FourBytes bytes) {
#if defined(__clang__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
  return __builtin_convertvector(__builtin_convertvector(bytes, FourInts), Four);
#else
  // GCC 12 takes the bytes one by one otherwise, in three times the time
  using Bytes = std::uint8_t __attribute__((vector_size(16)));
  using Words = std::uint32_t __attribute__((vector_size(16)));
  std::uint32_t word;
  std::memcpy(&word, &bytes, sizeof word);
  const Bytes found = reinterpret_cast<Bytes>(Words{word, 0, 0, 0}), zero{};
  const Bytes wide = __builtin_shufflevector(found, zero, 0, 16, 16, 16, 1, 16, 16, 16, 2, 16, 16, 16, 3, 16, 16, 16);
  return __builtin_convertvector(reinterpret_cast<FourInts>(wide), Four);
#endif
}
NTRE_INLINE FourShorts shifted(Four whole) {  // whole numbers below 2^19 to their sixteenth
  return __builtin_convertvector(__builtin_convertvector(whole, FourInts) >> 4, FourShorts);
}
#else
template <typename T>
struct Lanes {
  T lane[4];
};
using Four = Lanes<float>;
using FourShorts = Lanes<std::int16_t>;
using FourBytes = Lanes<std::uint8_t>;

NTRE_INLINE Four operator+(Four a, Four b) {
  for (int i = 0; i < 4; ++i) a.lane[i] += b.lane[i];
  return a;
}
NTRE_INLINE Four operator*(Four a, float b) {
  for (float& lane : a.lane) lane *= b;
  return a;
}
NTRE_INLINE Four widened(FourBytes bytes) {
  Four found;
  for (int i = 0; i < 4; ++i) found.lane[i] = bytes.lane[i];
  return found;
}
NTRE_INLINE FourShorts shifted(Four whole) {
  FourShorts found;
  for (int i = 0; i < 4; ++i) found.lane[i] = static_cast<std::int16_t>(static_cast<std::int32_t>(whole.lane[i]) >> 4);
  return found;
}
#endif

// The pixel at `from`. One that is `Last` in its row may be the last of the memory: no fourth byte is read.
template <bool Last>
NTRE_INLINE Four pixel(const std::uint8_t* from) {
  FourBytes bytes{};
  std::memcpy(&bytes, from, Last ? 3 : 4);
  return widened(bytes);
}

template <typename Vector, typename T>
NTRE_INLINE void store(const Vector& lanes, T* to) {
  static_assert(sizeof lanes == 4 * sizeof(T), "four of them");
  std::memcpy(to, &lanes, sizeof lanes);
}

}  // namespace ntre
