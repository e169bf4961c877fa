// Pictures of files, for the programs: binary PPM and PGM, and what OpenCV reads where it was found.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ntre/image.hpp"

namespace ntre {

// Bytes without gaps: `channels` of them a pixel, 3 (RGB) or 1 (grey).
struct Picture {
  int width = 0;
  int height = 0;
  int channels = 0;
  std::vector<std::uint8_t> bytes;

  ImageView image() const { return {bytes.data(), width, height, std::ptrdiff_t{3} * width}; }
  MaskView mask() const { return {bytes.data(), width, height, width}; }
};

// A photo as RGB.  Throws an input error: it cannot be read, or is in no format that is known here.
Picture read_image(const std::string& path);

// A mask's values as they are.  Throws as `read_image`.
Picture read_mask(const std::string& path);

// Writes a grey picture (P5).  Throws an input error: it cannot be written.
void write_pgm(const std::string& path, int width, int height, const std::vector<std::uint8_t>& values);

}  // namespace ntre
