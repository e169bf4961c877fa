#ifndef NTRE_IMAGE_HPP
#define NTRE_IMAGE_HPP

#include <cstddef>
#include <cstdint>

namespace ntre {

// RGB, 8 bits: 3 bytes a pixel, rows of `stride` bytes. Owns nothing.
struct ImageView {
    const std::uint8_t* data = nullptr;
    int width = 0;
    int height = 0;
    std::ptrdiff_t stride = 0;

    const std::uint8_t* row(int y) const { return data + stride * y; }
};

// One byte a pixel, rows of `stride` bytes: 1 the target, 0 the rest, 255 ignored; or 0 and 255 alone. Owns nothing.
struct MaskView {
    const std::uint8_t* data = nullptr;
    int width = 0;
    int height = 0;
    std::ptrdiff_t stride = 0;

    const std::uint8_t* row(int y) const { return data + stride * y; }
};

}  // namespace ntre

#endif
