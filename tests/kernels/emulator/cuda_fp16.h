// Stands in for CUDA's header in the CPU build: a 16-bit float as a bit pattern, converted as the hardware does
// (to nearest, ties to even; denormals, infinities and NaN kept).
#pragma once

#include <cstdint>
#include <cstring>

struct half {
  uint16_t bits;
};

inline float __half2float(half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16, body = value.bits & 0x7fffu;
  uint32_t word = sign;
  if (body >= 0x7c00u) {
    word |= 0x7f800000u | (body & 0x3ffu) << 13;
  } else if (body >= 0x400u) {
    word |= (body << 13) + ((127u - 15u) << 23);
  } else {
    const float tiny = static_cast<float>(body) * 0x1p-24f;
    uint32_t positive;
    std::memcpy(&positive, &tiny, 4);
    word |= positive;
  }
  float result;
  std::memcpy(&result, &word, 4);
  return result;
}

inline half __float2half_rn(float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  const uint16_t sign = static_cast<uint16_t>(word >> 16 & 0x8000u);
  const uint32_t body = word & 0x7fffffffu;
  if (body > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (body >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65,520 and more
  if (body < 0x38800000u) {  // below 2^-14: adding 0.5 rounds to multiples of 2^-24
    float positive, sum;
    std::memcpy(&positive, &body, 4);
    sum = positive + 0.5f;
    uint32_t rounded;
    std::memcpy(&rounded, &sum, 4);
    return {static_cast<uint16_t>(sign | (rounded - 0x3f000000u))};
  }
  const uint32_t odd = body >> 13 & 1u;
  return {static_cast<uint16_t>(sign | (body - ((127u - 15u) << 23) + 0xfffu + odd) >> 13)};
}

inline half __ushort_as_half(unsigned short bits) { return {bits}; }
