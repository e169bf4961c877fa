// Pooling under the DO mask (eq. 7 and 8): the mask is made where it is used and never written.
//
// A block sums kChannels channels for kClasses classes over all pixels, so every margin serves four channels and every
// feature four classes. Loads are vectors of four where the pixel count allows. Sums stay in float32, in a fixed order
// (lanes, then warps): no atomics, so the result does not depend on timing.
#include "common.cuh"

namespace ntre {

constexpr int kChannels = 4;
constexpr int kClasses = 4;
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// relu(1 - [bg argmax] - [initial argmax]): argmax takes class 0 on a tie, so a margin counts only above zero
NTRE_INLINE float do_mask(float background, float initial) { return background <= 0.0f && initial <= 0.0f ? 1.0f : 0.0f; }

// masked mean (paper), or the mean over all pixels (released code)
NTRE_INLINE float do_mean(float total, float area, int pixels, bool by_area, float epsilon) {
  return total / (by_area ? area + epsilon : static_cast<float>(pixels));
}

template <int kVector> __device__ __forceinline__ void load(const float* from, float* to) {
  if constexpr (kVector == 4) {
    const float4 v = __ldg(reinterpret_cast<const float4*>(from));
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else {
    to[0] = __ldg(from);
  }
}

template <int kVector> __device__ __forceinline__ void load(const half* from, float* to) {
  if constexpr (kVector == 4) {
    const uint2 v = __ldg(reinterpret_cast<const uint2*>(from));
    const unsigned word[2] = {v.x, v.y};
    for (int i = 0; i < 4; ++i) {
      to[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(word[i / 2] >> (16 * (i % 2)))));
    }
  } else {
    to[0] = __half2float(__ldg(from));
  }
}

// feature [B, C, P], background [B, P], initial [B, N, P] -> out [B, N, C]
template <typename In, int kVector>
__device__ __forceinline__ void do_pool(const In* feature, const float* background, const float* initial, int channels,
                                        int classes, int pixels, int by_area, float epsilon, float* out) {
  constexpr int kSums = (kChannels + 1) * kClasses;  // the last row holds the areas
  __shared__ float partial[kWarps][kSums];
  const int c_first = static_cast<int>(blockIdx.x) * kChannels, n_first = static_cast<int>(blockIdx.y) * kClasses;
  const long long b = blockIdx.z;
  float sum[kChannels + 1][kClasses];
#pragma unroll
  for (int c = 0; c <= kChannels; ++c) {
#pragma unroll
    for (int n = 0; n < kClasses; ++n) sum[c][n] = 0.0f;
  }
  for (int p = static_cast<int>(threadIdx.x) * kVector; p < pixels; p += kThreads * kVector) {
    float margin[kVector], mask[kClasses][kVector], value[kVector];
    load<kVector>(background + b * pixels + p, margin);
#pragma unroll
    for (int n = 0; n < kClasses; ++n) {
      // a class past the end repeats the last one; its sums are not written
      load<kVector>(initial + (b * classes + smaller(n_first + n, classes - 1)) * pixels + p, value);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        mask[n][i] = do_mask(margin[i], value[i]);
        sum[kChannels][n] += mask[n][i];
      }
    }
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      load<kVector>(feature + (b * channels + smaller(c_first + c, channels - 1)) * pixels + p, value);
#pragma unroll
      for (int n = 0; n < kClasses; ++n) {
#pragma unroll
        for (int i = 0; i < kVector; ++i) sum[c][n] += mask[n][i] * value[i];
      }
    }
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int c = 0; c <= kChannels; ++c) {
#pragma unroll
    for (int n = 0; n < kClasses; ++n) {
      float v = sum[c][n];
      for (int step = kWarp / 2; step > 0; step /= 2) v += __shfl_xor_sync(kAllLanes, v, step);
      if (lane == 0) partial[warp][c * kClasses + n] = v;
    }
  }
  __syncthreads();
  if (threadIdx.x >= kChannels * kClasses) return;
  const int c = static_cast<int>(threadIdx.x) / kClasses, n = static_cast<int>(threadIdx.x) % kClasses;
  if (c_first + c >= channels || n_first + n >= classes) return;
  float total = 0.0f, area = 0.0f;
  for (int i = 0; i < kWarps; ++i) {
    total += partial[i][c * kClasses + n];
    area += partial[i][kChannels * kClasses + n];
  }
  out[(b * classes + n_first + n) * channels + c_first + c] = do_mean(total, area, pixels, by_area != 0, epsilon);
}

}  // namespace ntre

#define NTRE_POOL(NAME, IN, VECTOR)                                                                                  \
  extern "C" __global__ void __launch_bounds__(ntre::kThreads)                                                       \
      NAME(const IN* feature, const float* background, const float* initial, int channels, int classes, int pixels,  \
           int by_area, float epsilon, float* out) {                                                                 \
    ntre::do_pool<IN, VECTOR>(feature, background, initial, channels, classes, pixels, by_area, epsilon, out);       \
  }

NTRE_POOL(do_pool_f16, half, 1)
NTRE_POOL(do_pool_f32, float, 1)
NTRE_POOL(do_pool4_f16, half, 4)
NTRE_POOL(do_pool4_f32, float, 4)
