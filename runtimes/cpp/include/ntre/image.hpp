// Pixels as callers hold them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ntre {

// An RGB image of 8 bits a channel; the pixels stay the caller's.
struct ImageView {
  const std::uint8_t* data = nullptr;  // the first row; a pixel is three bytes: red, green, blue
  int width = 0;                       // 1 to 32,767
  int height = 0;                      // 1 to 32,767
  std::ptrdiff_t stride = 0;           // bytes from a row to the next, at least 3 * width; below 0 for bottom-up rows
};

// A mask of one byte a pixel: 1 the target, 0 the rest, 255 ignored; or 0 and 255 alone.  The pixels stay the caller's.
struct MaskView {
  const std::uint8_t* data = nullptr;  // the first row
  int width = 0;                       // of its image
  int height = 0;                      // of its image
  std::ptrdiff_t stride = 0;           // bytes from a row to the next; below 0 for bottom-up rows
};

}  // namespace ntre
