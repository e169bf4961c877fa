// What all kernels share. The sources compile as CUDA with nvcc and, over a small stand-in for the CUDA runtime
// (tests/kernels/emulator), as C++ for the CPU: the tests run these very kernels without a GPU.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

#define NTRE_INLINE __host__ __device__ __forceinline__

namespace ntre {

constexpr int kWarp = 32;

NTRE_INLINE float to_float(float value) { return value; }
NTRE_INLINE float to_float(half value) { return __half2float(value); }

template <typename T> NTRE_INLINE T from_float(float value);
template <> NTRE_INLINE float from_float<float>(float value) { return value; }
template <> NTRE_INLINE half from_float<half>(float value) { return __float2half_rn(value); }

NTRE_INLINE int smaller(int a, int b) { return a < b ? a : b; }
NTRE_INLINE int larger(int a, int b) { return a > b ? a : b; }
NTRE_INLINE int clamped(int value, int low, int high) { return smaller(larger(value, low), high); }

// a / b, rounded correctly, of whole numbers (b > 0): far from overflow and denormals. The compiler's own division calls a
// subroutine for those, and the call makes a kernel spill registers around it.
NTRE_INLINE float ratio(int a, int b) {
  const float x = static_cast<float>(a), y = static_cast<float>(b);
#ifdef __CUDA_ARCH__
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(y));
  inverse = __fmaf_rn(inverse, __fmaf_rn(-y, inverse, 1.0f), inverse);
  float result = __fmul_rn(x, inverse);
  result = __fmaf_rn(__fmaf_rn(-y, result, x), inverse, result);
  return __fmaf_rn(__fmaf_rn(-y, result, x), inverse, result);
#else
  return x / y;
#endif
}

// As NumPy and PyTorch: a NaN wins, so that a broken feature shows in the result. fmaxf would hide it.
NTRE_INLINE float max_nan(float value, float best) { return value > best || value != value ? value : best; }

}  // namespace ntre
