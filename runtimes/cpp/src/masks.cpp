#include "masks.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "errors.hpp"
#include "letterbox.hpp"

namespace ntre {

namespace {

constexpr std::size_t kShown = 4;

std::string sides(int width, int height) { return std::to_string(width) + " x " + std::to_string(height); }

}  // namespace

void check_pixels(const std::uint8_t* data, int width, int height, std::ptrdiff_t stride, int channels,
                  const std::string& what) {
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide)
    throw input_error(what + " has " + sides(width, height) + " pixels; a side is 1 to " + std::to_string(kMaxSide) +
                      ".");
  if (data == nullptr) throw input_error(what + " has no pixels: its data are NULL.");
  const std::ptrdiff_t row = std::ptrdiff_t{width} * channels;
  if (height > 1 && stride < row && stride > -row)
    throw input_error(what + " has rows of " + std::to_string(stride) + " bytes where its pixels take " +
                      std::to_string(row) + ".");
}

std::vector<std::uint8_t> normalise_mask(const MaskView& mask, const std::string& what) {
  const auto width = static_cast<std::size_t>(mask.width);
  std::vector<std::uint8_t> values(width * static_cast<std::size_t>(mask.height));
  for (int y = 0; y < mask.height; ++y)
    std::copy_n(mask.data + mask.stride * y, width, values.begin() + static_cast<std::ptrdiff_t>(width) * y);
  std::array<bool, 256> there{};
  for (const auto value : values) there[value] = true;
  std::vector<std::string> odd;
  for (std::size_t value = 2; value < kIgnore && odd.size() < kShown; ++value)
    if (there[value]) odd.push_back(std::to_string(value));
  if (!odd.empty())
    throw input_error(what + " holds the values [" + joined(odd) + "]; only 0, 1 (target) and 255 are allowed.");
  // without a 1, it is black and white
  if (!there[1])
    for (auto& value : values) value = value == kIgnore;
  return values;
}

void check_target(const std::vector<std::uint8_t>& mask, const MaskView& size, const ImageView& image,
                  const std::string& what) {
  if (size.width != image.width || size.height != image.height)
    throw input_error(what + ": the mask has " + sides(size.width, size.height) + " pixels and its image " +
                      sides(image.width, image.height) +
                      "; they must be equal (EXIF orientation is applied to photos).");
  if (std::find(mask.begin(), mask.end(), 1) == mask.end())
    throw input_error(what + ": the mask is empty; mark the target with 1 or 255.");
}

double mask_iou(const std::vector<std::uint8_t>& labels, const std::vector<std::uint8_t>& mask) {
  std::size_t both = 0, any = 0;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    if (mask[i] == kIgnore) continue;
    both += labels[i] > 0 && mask[i] == 1;
    any += labels[i] > 0 || mask[i] == 1;
  }
  return any == 0 ? 1.0 : static_cast<double>(both) / static_cast<double>(any);
}

}  // namespace ntre
