// OpenCV's resize written out, for the same grey levels as Python's `runtime.letterbox`, every one; the arithmetic is
// that of `kernels/reference.py`.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "ntre/image.hpp"

namespace ntre {

// Takes row `y` of a resized image, `width` pixels of four bytes each: red, green, blue and one that means nothing.
using RowSink = std::function<void(int y, const std::uint8_t* row)>;

// `cv2.INTER_LINEAR` of bytes: bilinear with pixel centres aligned.
void resize_linear(const ImageView& image, int width, int height, const RowSink& sink);

// `cv2.INTER_AREA` of bytes, to a size that is not larger: the mean of the area that a pixel covers.
void resize_area(const ImageView& image, int width, int height, const RowSink& sink);

// `cv2.INTER_AREA` of a plane [in_height, in_width] to [height, width], not rounded.
std::vector<float> resize_area(const float* plane, int in_width, int in_height, int width, int height);

// Of each of `n_out` pixels the source pixel of `cv2.INTER_NEAREST_EXACT`: where its centre lies.
std::vector<int> nearest_exact(int n_out, int n_in);

}  // namespace ntre
