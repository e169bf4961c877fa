// Arithmetic of OpenCV's uint8 resize, which runtime.image.prepare_image calls: taps, weights and rounding.
// Positions are ratios of integers, so no double is needed: embedded and consumer GPUs run it at 1/64 of the rate.
#pragma once

#include <math.h>

#include "common.cuh"

namespace ntre {

// OpenCV's bilinear weights are integers out of 2^11.
constexpr float kFixedOne = 2048.0f;

struct LinearTaps {
  int low, high;              // source pixels
  int low_share, high_share;  // of kFixedOne
};

// Exact as long as 2 * n_out * n_in < 2^24 (an input side up to 2,048); beyond, the last bit of a share may differ.
// Columns drop the share outside the image, rows only clamp the index: the two round differently, and so does OpenCV.
NTRE_INLINE LinearTaps linear_taps(int out, int n_out, int n_in, bool is_column) {
  const float at = ratio((2 * out + 1) * n_in - n_out, 2 * n_out);
  const int low = static_cast<int>(floorf(at));
  float share = at - static_cast<float>(low);
  if (is_column && (low < 0 || low >= n_in - 1)) share = 0.0f;
  LinearTaps taps;
  taps.low = clamped(low, 0, n_in - 1);
  taps.high = is_column ? smaller(taps.low + 1, n_in - 1) : clamped(low + 1, 0, n_in - 1);
  taps.low_share = static_cast<int>(rintf((1.0f - share) * kFixedOne));
  taps.high_share = static_cast<int>(rintf(share * kFixedOne));
  return taps;
}

NTRE_INLINE int linear_across(int low, int high, const LinearTaps& taps) {
  return low * taps.low_share + high * taps.high_share;
}

NTRE_INLINE int linear_down(int low, int high, const LinearTaps& taps) {
  return (((taps.low_share * (low >> 4)) >> 16) + ((taps.high_share * (high >> 4)) >> 16) + 2) >> 2;
}

struct AreaTaps {
  int first, last;            // source pixels, both inclusive
  float first_weight, weight, last_weight;
};

// The average over [out, out + 1) * n_in / n_out, n_in >= n_out. OpenCV leaves out a pixel covered by less than 1/1000.
// Where both axes divide (`whole`), it sums integers and scales once: weights of 1 are exact in float32 below 2^24.
NTRE_INLINE AreaTaps area_taps(int out, int n_out, int n_in, bool whole) {
  const int begin = out * n_in, end = begin + n_in;  // in units of 1 / n_out pixel
  const int last = smaller(end / n_out, n_in - 1);
  const int first = smaller((begin + n_out - 1) / n_out, last);
  const int before = first * n_out - begin, after = end - last * n_out;
  AreaTaps taps;
  taps.weight = whole ? 1.0f : ratio(n_out, n_in);
  taps.first_weight = taps.last_weight = taps.weight;
  taps.first = first;
  taps.last = last;
  if (before * 1000 > n_out) {
    taps.first = first - 1;
    taps.first_weight = ratio(before, n_in);
  }
  if (after * 1000 > n_out) {
    if (!whole) taps.last_weight = ratio(smaller(after, n_out), n_in);
  } else {
    taps.last = last - 1;
    // the weights of a span of one pixel are those of its first
  }
  return taps;
}

NTRE_INLINE float area_weight(int source, const AreaTaps& taps) {
  if (source == taps.first) return taps.first_weight;
  return source == taps.last ? taps.last_weight : taps.weight;
}

// Never fused: OpenCV's x86 build has no fused multiply-add here, and a tie may round the other way.
NTRE_INLINE float add_product(float sum, float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(sum, __fmul_rn(a, b));
#else
  return sum + a * b;
#endif
}

NTRE_INLINE float to_grey(float value) { return fminf(fmaxf(rintf(value), 0.0f), 255.0f); }

NTRE_INLINE float normalised(float grey, float mean, float scale) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(__fsub_rn(grey, mean), scale);
#else
  return (grey - mean) * scale;
#endif
}

}  // namespace ntre
