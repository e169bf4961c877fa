// Pre-processing, as Python's `runtime.letterbox`: the image is scaled to fit the square input with its aspect ratio
// kept, put at the top left, and the rest is filled with the mean colour.
#pragma once

#include <cstddef>
#include <cstdint>

#include "inputspec.hpp"
#include "ntre/image.hpp"

namespace ntre {

// the largest side that Python's OpenCV can address
constexpr int kMaxSide = 32767;

// Where an image of `height` x `width` pixels lies in the square input of `size` pixels.
struct Letterbox {
  int size, height, width, inner_height, inner_width;

  // The largest fit with the aspect ratio kept; a side never falls below one pixel.
  static Letterbox fit(int height, int width, int size);

  // Whether pixels are averaged on the way in, rather than interpolated.
  bool averages() const;
};

// Letterbox and normalise an image whose sides are 1 to `kMaxSide`. `out` is [3, size, size], of which every value is
// written: zero (the mean colour) outside the image.
Letterbox prepare_image(const ImageView& image, const InputSpec& spec, float* out);

// Letterbox a support mask [box.height, box.width] of rows of `stride` bytes, where 1 is the target and anything else
// is not. `out` is [size, size] of 0 and 1, of which every value is written.
void prepare_mask(const std::uint8_t* mask, std::ptrdiff_t stride, const Letterbox& box, float* out);

}  // namespace ntre
