// Masks of one class: 1 is the target, 0 the rest, `kIgnore` what counts for nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ntre/image.hpp"

namespace ntre {

// as in PASCAL VOC: borders, and what nobody has marked
constexpr std::uint8_t kIgnore = 255;

// Throws an input error: no pixels, sides that cannot be, or rows that overlap. `channels` is the bytes of a pixel.
void check_pixels(const std::uint8_t* data, int width, int height, std::ptrdiff_t stride, int channels,
                  const std::string& what);

// A mask of 0/1, 0/255 or 0/1/255 as 0, 1 and 255 (ignore), rows of `width` bytes.
// Throws an input error: other values.
std::vector<std::uint8_t> normalise_mask(const MaskView& mask, const std::string& what);

// Sees that a mask is its image's, and shows something; `mask` is normalised.
// Throws an input error: it has another size, or no 1.
void check_target(const std::vector<std::uint8_t>& mask, const MaskView& size, const ImageView& image,
                  const std::string& what);

// IoU of labels, where not 0, and of a mask, where 1; over the pixels that the mask does not ignore. 1 where both are
// empty.
double mask_iou(const std::vector<std::uint8_t>& labels, const std::vector<std::uint8_t>& mask);

}  // namespace ntre
