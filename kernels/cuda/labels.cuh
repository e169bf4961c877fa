// Arithmetic of runtime.image.back_map: features -> input (corners aligned) -> crop -> original size (centres aligned).
#pragma once

#include "common.cuh"

namespace ntre {

// One row of the composed matrix. Two neighbouring input pixels touch at most three neighbouring features, because
// there are never more features than input pixels.
struct alignas(16) BackTaps {
  int base;
  float weight[3];
};

NTRE_INLINE BackTaps back_taps(int out, int length, int inner, int size, int features) {
  // in the cropped input: floor and remainder of a ratio of integers, as exact as the float64 of the reference
  const int den = 2 * length;
  const int num = clamped((2 * out + 1) * inner - length, 0, (inner - 1) * den);
  const int low = smaller(num / den, larger(inner - 2, 0));
  const float share = ratio(num - low * den, den);
  BackTaps taps = {0, {0.0f, 0.0f, 0.0f}};
  for (int i = 0; i < 2; ++i) {
    const int at = smaller(low + i, inner - 1);  // input pixel
    const float amount = i == 0 ? 1.0f - share : share;
    // of an input of one pixel or one feature there is only the first
    const int steps = larger(size - 1, 1);
    const int feature = smaller(at * (features - 1) / steps, larger(features - 2, 0));
    const float inner_share = ratio(at * (features - 1) - feature * steps, steps);
    if (i == 0) taps.base = feature;
    const int offset = feature - taps.base;  // 0 or 1
    const float here = amount * (1.0f - inner_share), next = amount * inner_share;
    // no indexing by a variable: the weights stay in registers
    taps.weight[0] += offset == 0 ? here : 0.0f;
    taps.weight[1] += offset == 0 ? next : here;
    taps.weight[2] += offset == 0 ? 0.0f : next;
  }
  return taps;
}

}  // namespace ntre
