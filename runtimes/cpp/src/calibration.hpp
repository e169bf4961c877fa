// What makes the margins of several classes comparable, as Python's `runtime.calibration`, which tells why.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace ntre {

// A class's margin m becomes (m - offset) * scale; the scale is above 0.
struct Calibration {
  double offset = 0.0;
  double scale = 1.0;

  bool neutral() const { return offset == 0.0 && scale == 1.0; }
};

// Calibrates the margins (channel 1 minus channel 0) of logits [N, 2, places] in place.
void calibrate(std::vector<float>& logits, const std::vector<Calibration>& by);

// Mean margin of each class over a target; NaN where nothing of the target is left.
// logits [classes, 2, height, width] of a support image, target [size, size] of 0 and 1.
std::vector<double> response(const std::vector<float>& logits, std::size_t classes, int height, int width,
                             const std::vector<float>& target, int size);

// Calibration of each class from a table [N][N]: row c, column d is the mean margin of class c over the targets of d,
// NaN where there are none. All are neutral with fewer than two classes.
std::vector<Calibration> fit(const std::vector<std::vector<double>>& table);

}  // namespace ntre
