// The C++ runtime's pixel functions with C names, for tests that call them through ctypes.
#include <cstdint>
#include <cstring>
#include <vector>

#include "labels.hpp"
#include "letterbox.hpp"
#include "resize.hpp"
#include "wayback.hpp"

namespace {

ntre::Letterbox box_of(const std::int32_t* sizes) { return ntre::Letterbox::fit(sizes[0], sizes[1], sizes[2]); }

}  // namespace

extern "C" {

// `inner` gets the height and the width of the image within the input
void pixels_prepare(const std::uint8_t* image, int height, int width, std::ptrdiff_t stride, int size,
                    const double* mean, const double* std_, float* out, std::int32_t* inner) {
  const ntre::InputSpec spec{size, {mean[0], mean[1], mean[2]}, {std_[0], std_[1], std_[2]}};
  const ntre::Letterbox box = ntre::prepare_image({image, width, height, stride}, spec, out);
  inner[0] = box.inner_height;
  inner[1] = box.inner_width;
}

void pixels_mask(const std::uint8_t* mask, const std::int32_t* sizes, float* out) {
  ntre::prepare_mask(mask, sizes[1], box_of(sizes), out);
}

void pixels_area(const float* plane, int in_width, int in_height, int width, int height, float* out) {
  const std::vector<float> found = ntre::resize_area(plane, in_width, in_height, width, height);
  std::memcpy(out, found.data(), found.size() * sizeof(float));
}

// `out` is [length, features]
void pixels_way_back(int length, int inner, int size, int features, float* out) {
  const ntre::WayBack found = ntre::way_back(length, inner, size, features);
  for (const auto& run : found.runs) {
    for (int i = run.begin; i < run.end; ++i) {
      for (int t = 0; t < run.taps; ++t) out[i * features + run.first + t] += found.share(t)[i];
    }
  }
}

void pixels_labels(const float* logits, int classes, int h, int w, const std::int32_t* sizes, std::uint8_t* out) {
  ntre::label_map({logits, classes, h, w}, box_of(sizes), out);
}

void pixels_scores(const std::uint8_t* labels, const float* logits, int classes, int h, int w,
                   const std::int32_t* sizes, double* out) {
  const std::vector<double> found = ntre::class_scores(labels, {logits, classes, h, w}, box_of(sizes));
  std::memcpy(out, found.data(), found.size() * sizeof(double));
}

void pixels_margins(const float* logits, int h, int w, const std::int32_t* sizes, float* out) {
  ntre::margin_map({logits, 1, h, w}, 0, box_of(sizes), out);
}
}
