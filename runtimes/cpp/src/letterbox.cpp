#include "letterbox.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "resize.hpp"

namespace ntre {
namespace {

// below this factor, bilinear sampling skips pixels and aliases
constexpr double kAreaBelow = 0.5;

}  // namespace

Letterbox Letterbox::fit(int height, int width, int size) {
  const int longer = std::max(height, width);
  // half to even, as Python's `round`
  const auto inner = [&](int side) {
    return std::max(1, static_cast<int>(std::nearbyint(static_cast<double>(side) * size / longer)));
  };
  return {size, height, width, inner(height), inner(width)};
}

bool Letterbox::averages() const { return static_cast<double>(size) / std::max(height, width) < kAreaBelow; }

Letterbox prepare_image(const ImageView& image, const InputSpec& spec, float* out) {
  const Letterbox box = Letterbox::fit(image.height, image.width, spec.size);
  const auto size = static_cast<std::size_t>(spec.size), plane = size * size;
  const auto inner = static_cast<std::size_t>(box.inner_width);
  std::array<std::array<float, 256>, 3> levels;
  for (std::size_t c = 0; c < 3; ++c) {
    const auto mean = static_cast<float>(spec.mean[c]), scale = static_cast<float>(1 / spec.std[c]);
    for (std::size_t level = 0; level < 256; ++level) levels[c][level] = (static_cast<float>(level) - mean) * scale;
  }
  const RowSink normalise = [&](int y, const std::uint8_t* row) {
    float* red = out + static_cast<std::size_t>(y) * size;
    float *green = red + plane, *blue = green + plane;
    for (std::size_t x = 0; x < inner; ++x, row += 4) {
      red[x] = levels[0][row[0]];
      green[x] = levels[1][row[1]];
      blue[x] = levels[2][row[2]];
    }
    for (float* line : {red, green, blue}) std::fill(line + inner, line + size, 0.0F);
  };
  (box.averages() ? static_cast<void (*)(const ImageView&, int, int, const RowSink&)>(resize_area) : resize_linear)(
      image, box.inner_width, box.inner_height, normalise);
  const std::size_t filled = static_cast<std::size_t>(box.inner_height) * size;
  for (std::size_t c = 0; c < 3; ++c) std::fill(out + c * plane + filled, out + (c + 1) * plane, 0.0F);
  return box;
}

void prepare_mask(const std::uint8_t* mask, std::ptrdiff_t stride, const Letterbox& box, float* out) {
  const auto rows = nearest_exact(box.inner_height, box.height), columns = nearest_exact(box.inner_width, box.width);
  const auto size = static_cast<std::size_t>(box.size);
  float* line = out;
  for (const int row : rows) {
    const std::uint8_t* from = mask + row * stride;
    for (std::size_t x = 0; x < columns.size(); ++x) line[x] = from[columns[x]] == 1 ? 1.0F : 0.0F;
    std::fill(line + columns.size(), line + size, 0.0F);
    line += size;
  }
  std::fill(line, out + size * size, 0.0F);
}

}  // namespace ntre
