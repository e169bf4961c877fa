#include "calibration.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "resize.hpp"

namespace ntre {

namespace {

// shares of the mean margins on the targets of the others and on the own ones
constexpr double kOthers = 0.5, kOwn = 0.05;

}  // namespace

void calibrate(std::vector<float>& logits, const std::vector<Calibration>& by) {
  if (std::all_of(by.begin(), by.end(), [](const Calibration& c) { return c.neutral(); })) return;
  const std::size_t places = logits.size() / (2 * by.size());
  float* at = logits.data();
  for (const Calibration& own : by) {
    const auto scale = static_cast<float>(own.scale);
    const float shift = static_cast<float>(own.offset) * scale;
    for (std::size_t i = 0; i < places; ++i) *at++ *= scale;
    for (std::size_t i = 0; i < places; ++i, ++at) *at = *at * scale - shift;
  }
}

std::vector<double> response(const std::vector<float>& logits, std::size_t classes, int height, int width,
                             const std::vector<float>& target, int size) {
  const std::vector<float> weights = resize_area(target.data(), size, size, width, height);
  double total = 0;
  for (const float weight : weights) total += double{weight};
  std::vector<double> means(classes, std::numeric_limits<double>::quiet_NaN());
  if (!(total > 0)) return means;
  const std::size_t places = weights.size();
  for (std::size_t n = 0; n < classes; ++n) {
    const float* rest = logits.data() + 2 * n * places;
    const float* own = rest + places;
    double sum = 0;
    for (std::size_t i = 0; i < places; ++i) sum += double{own[i] - rest[i]} * double{weights[i]};
    means[n] = sum / total;
  }
  return means;
}

std::vector<Calibration> fit(const std::vector<std::vector<double>>& table) {
  const std::size_t classes = table.size();
  std::vector<Calibration> found(classes);
  if (classes < 2) return found;
  for (std::size_t c = 0; c < classes; ++c) {
    double others = 0;
    int seen = 0;
    for (std::size_t d = 0; d < classes; ++d) {
      if (d == c || !std::isfinite(table[c][d])) continue;
      others += table[c][d];
      ++seen;
    }
    const double mean = others / std::max(seen, 1);
    const double own = std::isfinite(table[c][c]) ? table[c][c] : 0.0;
    found[c].offset = kOthers * std::max(mean, 0.0) + kOwn * std::max(own, 0.0);
  }
  return found;
}

}  // namespace ntre
