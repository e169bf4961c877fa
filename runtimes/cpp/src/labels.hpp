// Post-processing, as Python's `runtime.labels`: logits at feature resolution to labels at the photo's own size,
// through the same two maps as on the way in, composed to one.
#pragma once

#include <cstdint>
#include <vector>

#include "letterbox.hpp"

namespace ntre {

// label 0 is background, and labels are bytes
constexpr int kMaxClasses = 255;

// float32 [classes, 2, height, width]; channel 1 is the class, channel 0 the rest. The values stay the caller's.
struct Logits {
  const float* data;
  int classes;  // 1 to `kMaxClasses`
  int height, width;
};

// `labels` is [box.height, box.width], of which every value is written: 0 background, n the class of the n-th pair of
// logits (the largest margin above 0 wins, the first of equals). Throws an input error: more classes than labels.
void label_map(const Logits& logits, const Letterbox& box, std::uint8_t* labels);

// For each class the mean over its pixels of `labels` of its softmax probability among all margins and 0 for the
// background, in [0, 1]; 0 without pixels.
std::vector<double> class_scores(const std::uint8_t* labels, const Logits& logits, const Letterbox& box);

// `margins` is [box.height, box.width]: those of class `n`, counted from 0; above 0 is the class.
void margin_map(const Logits& logits, int n, const Letterbox& box, float* margins);

}  // namespace ntre
