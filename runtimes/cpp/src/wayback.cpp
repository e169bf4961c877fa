#include "wayback.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace ntre {
namespace {

// Two neighbours and the share of the second.
struct Tap {
  int low, high;
  float share;
};

Tap tap_at(double position, int n_in) {
  const int low = std::clamp(static_cast<int>(std::floor(position)), 0, std::max(n_in - 2, 0));
  return {low, std::min(low + 1, n_in - 1), static_cast<float>(position - low)};
}

// The features of one pixel, at most two for each of two pixels of the input.
struct Blend {
  std::array<int, 4> feature;
  std::array<float, 4> share;
  int first, last;  // of the features with a share
};

}  // namespace

WayBack way_back(int length, int inner, int size, int features) {
  const auto count = static_cast<std::size_t>(length);
  // NumPy's linspace
  const double step = size > 1 ? (features - 1) / static_cast<double>(size - 1) : 0;
  const auto to_features = [&](int pixel) {
    return tap_at(pixel == size - 1 && size > 1 ? features - 1 : pixel * step, features);
  };
  std::vector<Blend> means(count);
  const double scale = static_cast<double>(inner) / length;
  int taps = 1;
  for (std::size_t i = 0; i < count; ++i) {
    const double position = std::clamp((static_cast<double>(i) + 0.5) * scale - 0.5, 0.0, inner - 1.0);
    const Tap outer = tap_at(position, inner), low = to_features(outer.low), high = to_features(outer.high);
    const float near = 1 - outer.share, far = outer.share;
    Blend& mean = means[i];
    mean.feature = {low.low, low.high, high.low, high.high};
    mean.share = {near * (1 - low.share), near * low.share, far * (1 - high.share), far * high.share};
    mean.first = features - 1;
    mean.last = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      if (mean.share[k] == 0) continue;
      mean.first = std::min(mean.first, mean.feature[k]);
      mean.last = std::max(mean.last, mean.feature[k]);
    }
    taps = std::max(taps, mean.last - mean.first + 1);
  }
  WayBack found{length, {}, std::vector<float>(static_cast<std::size_t>(taps) * count)};
  for (int i = 0; i < length; ++i) {
    const Blend& mean = means[static_cast<std::size_t>(i)];
    for (std::size_t k = 0; k < 4; ++k) {
      if (mean.share[k] == 0) continue;
      const auto tap = static_cast<std::size_t>(mean.feature[k] - mean.first);
      found.shares[tap * count + static_cast<std::size_t>(i)] += mean.share[k];
    }
    const int used = mean.last - mean.first + 1;
    if (found.runs.empty() || found.runs.back().first != mean.first || found.runs.back().taps != used) {
      found.runs.push_back({i, i + 1, mean.first, used});
    } else {
      found.runs.back().end = i + 1;
    }
  }
  return found;
}

}  // namespace ntre
