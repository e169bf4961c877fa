#include "resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lanes.hpp"

namespace ntre {
namespace {

constexpr float kOne = 2048;
// added to a float from 0 to 2^22, it leaves the nearest whole number in the low bits, half to even
constexpr float kRound = 12582912;

const std::uint8_t* row_of(const ImageView& image, int y) { return image.data + y * image.stride; }

// Positions and fixed-point shares of bilinear interpolation with pixel centres aligned.
struct LinearTap {
  int low, high;
  float low_share, high_share;
};

// OpenCV drops the share outside the image for columns, and only clamps the index for rows.
std::vector<LinearTap> linear_taps(int n_out, int n_in, bool is_column) {
  std::vector<LinearTap> taps(static_cast<std::size_t>(n_out));
  const int last = n_in - 1;
  std::int64_t position = n_in - std::int64_t{n_out};
  for (LinearTap& tap : taps) {
    const auto at = static_cast<float>(static_cast<double>(position) / (2.0 * n_out));
    position += 2 * std::int64_t{n_in};
    int first = static_cast<int>(std::floor(at));
    float share = at - static_cast<float>(first);
    if (is_column) {
      if (first < 0 || first >= last) share = 0;
      first = std::clamp(first, 0, last);
    }
    tap = {std::clamp(first, 0, last), std::clamp(first + 1, 0, last), std::nearbyint((1 - share) * kOne),
           std::nearbyint(share * kOne)};
  }
  return taps;
}

template <bool Last>
NTRE_INLINE void interpolate(const std::uint8_t* row, const LinearTap* tap, const LinearTap* end, std::int16_t* out) {
  for (; tap != end; ++tap, out += 4) {
    // exact: below 2^24
    store(
        shifted(pixel<Last>(row + 3 * tap->low) * tap->low_share + pixel<Last>(row + 3 * tap->high) * tap->high_share),
        out);
  }
}

// Those from `careful` on read the last pixel of the row.
NTRE_CLONES void interpolate_columns(const std::uint8_t* row, const LinearTap* tap, const LinearTap* careful,
                                     const LinearTap* end, std::int16_t* out) {
  interpolate<false>(row, tap, careful, out);
  interpolate<true>(row, careful, end, out + 4 * (careful - tap));
}

NTRE_CLONES void blend(const std::int16_t* __restrict upper, std::int16_t s, const std::int16_t* __restrict lower,
                       std::int16_t t, std::uint8_t* __restrict out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::uint8_t>((((upper[i] * s) >> 16) + ((lower[i] * t) >> 16) + 2) >> 2);
  }
}

// What each pixel of one axis covers: `count` pixels from `first`, and where their weights begin.
struct AreaTap {
  int first, count;
  std::size_t weight;
};

struct AreaAxis {
  std::vector<AreaTap> taps;
  std::vector<float> weights;
};

// With `whole`, every factor is a whole number: weights are 1, and the area divides at the end.
AreaAxis area_axis(int n_out, int n_in, bool whole) {
  AreaAxis axis;
  axis.taps.reserve(static_cast<std::size_t>(n_out));
  axis.weights.reserve(static_cast<std::size_t>(n_in) + 2 * static_cast<std::size_t>(n_out));
  for (std::int64_t i = 0; i < n_out; ++i) {
    // in units of 1 / n_out pixel
    const std::int64_t begin = i * n_in, end = begin + n_in;
    AreaTap tap{0, 0, axis.weights.size()};
    for (std::int64_t s = begin / n_out; s * n_out < end && s < n_in; ++s) {
      const std::int64_t covered = std::min((s + 1) * n_out, end) - std::max(s * n_out, begin);
      // a pixel covered by less than 1/1000 is left out, as in OpenCV
      if (covered <= 0 || (covered < n_out && covered * 1000 <= n_out)) continue;
      if (tap.count++ == 0) tap.first = static_cast<int>(s);
      axis.weights.push_back(whole ? 1 : static_cast<float>(covered) / static_cast<float>(n_in));
    }
    axis.taps.push_back(tap);
  }
  return axis;
}

// One product and one sum at a time, in OpenCV's order, because it decides how ties round.
template <bool Last>
NTRE_INLINE Four covered(const std::uint8_t* row, const AreaTap& tap, const float* weights) {
  Four sum{};
  const std::uint8_t* from = row + 3 * static_cast<std::ptrdiff_t>(tap.first);
  for (const float *weight = weights + tap.weight, *end = weight + tap.count; weight != end; ++weight, from += 3) {
    sum = sum + pixel<Last>(from) * *weight;
  }
  return sum;
}

NTRE_CLONES void average_columns(const std::uint8_t* row, const AreaAxis& axis, float* out) {
  // only the last one reaches the end of the row
  const std::size_t last = axis.taps.size() - 1;
  const float* weights = axis.weights.data();
  for (std::size_t i = 0; i < last; ++i) store(covered<false>(row, axis.taps[i], weights), out + 4 * i);
  store(covered<true>(row, axis.taps[last], weights), out + 4 * last);
}

NTRE_CLONES void add_scaled(float* __restrict sums, const float* __restrict values, float weight, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) sums[i] += values[i] * weight;
}

NTRE_CLONES void to_levels(const float* __restrict sums, float scale, std::uint8_t* __restrict out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const float moved = sums[i] * scale + kRound;
    std::uint32_t bits;
    std::memcpy(&bits, &moved, sizeof bits);
    // a mean is at most 255 and a few last bits
    out[i] = static_cast<std::uint8_t>(bits);
  }
}

float area_scale(int in_width, int in_height, int width, int height, bool whole) {
  if (!whole) return 1;
  return 1 / (static_cast<float>(in_width / width) * static_cast<float>(in_height / height));
}

}  // namespace

void resize_linear(const ImageView& image, int width, int height, const RowSink& sink) {
  const auto columns = linear_taps(width, image.width, true), rows = linear_taps(height, image.height, false);
  const LinearTap* first = columns.data();
  const LinearTap* end = first + columns.size();
  const LinearTap* careful =
      std::partition_point(first, end, [&](const LinearTap& t) { return t.high < image.width - 1; });
  std::vector<std::int16_t> lines[2] = {std::vector<std::int16_t>(4 * columns.size()),
                                        std::vector<std::int16_t>(4 * columns.size())};
  // the rows of the source that the two lines were made of
  int kept[2] = {-1, -1};
  const auto line = [&](int row, int other) {
    for (int place : {0, 1}) {
      if (kept[place] == row) return static_cast<const std::int16_t*>(lines[place].data());
    }
    const int place = kept[0] == other ? 1 : 0;
    kept[place] = row;
    std::int16_t* made = lines[place].data();
    interpolate_columns(row_of(image, row), first, careful, end, made);
    return static_cast<const std::int16_t*>(made);
  };
  std::vector<std::uint8_t> out(4 * columns.size());
  for (int y = 0; y < height; ++y) {
    const LinearTap& tap = rows[static_cast<std::size_t>(y)];
    const std::int16_t* upper = line(tap.low, tap.high);
    const std::int16_t* lower = line(tap.high, tap.low);
    blend(upper, static_cast<std::int16_t>(tap.low_share), lower, static_cast<std::int16_t>(tap.high_share), out.data(),
          out.size());
    sink(y, out.data());
  }
}

void resize_area(const ImageView& image, int width, int height, const RowSink& sink) {
  const bool whole = image.width % width == 0 && image.height % height == 0;
  const AreaAxis columns = area_axis(width, image.width, whole), rows = area_axis(height, image.height, whole);
  const float scale = area_scale(image.width, image.height, width, height, whole);
  std::vector<float> line(4 * columns.taps.size()), sums(line.size());
  std::vector<std::uint8_t> out(line.size());
  int made = -1;
  for (int y = 0; y < height; ++y) {
    const AreaTap& tap = rows.taps[static_cast<std::size_t>(y)];
    std::fill(sums.begin(), sums.end(), 0.0F);
    for (int n = 0; n < tap.count; ++n) {
      // a row on the border of two pixels is wanted twice
      if (made != tap.first + n) {
        made = tap.first + n;
        average_columns(row_of(image, made), columns, line.data());
      }
      add_scaled(sums.data(), line.data(), rows.weights[tap.weight + static_cast<std::size_t>(n)], sums.size());
    }
    to_levels(sums.data(), scale, out.data(), out.size());
    sink(y, out.data());
  }
}

std::vector<float> resize_area(const float* plane, int in_width, int in_height, int width, int height) {
  const bool whole = in_width % width == 0 && in_height % height == 0;
  const AreaAxis columns = area_axis(width, in_width, whole), rows = area_axis(height, in_height, whole);
  const float scale = area_scale(in_width, in_height, width, height, whole);
  const auto row_length = static_cast<std::size_t>(width);
  std::vector<float> out(row_length * static_cast<std::size_t>(height)), line(row_length);
  float* sums = out.data();
  for (const AreaTap& tap : rows.taps) {
    for (int n = 0; n < tap.count; ++n) {
      const float* from = plane + static_cast<std::ptrdiff_t>(tap.first + n) * in_width;
      for (std::size_t x = 0; x < row_length; ++x) {
        const AreaTap& column = columns.taps[x];
        float sum = 0;
        for (int m = 0; m < column.count; ++m) {
          sum += from[column.first + m] * columns.weights[column.weight + static_cast<std::size_t>(m)];
        }
        line[x] = sum;
      }
      add_scaled(sums, line.data(), rows.weights[tap.weight + static_cast<std::size_t>(n)], row_length);
    }
    sums += row_length;
  }
  if (whole) {
    for (float& value : out) value *= scale;
  }
  return out;
}

std::vector<int> nearest_exact(int n_out, int n_in) {
  std::vector<int> found(static_cast<std::size_t>(n_out));
  // OpenCV 5 adds up positions in double precision, which decides where a centre lies between two pixels
  const double step = static_cast<double>(n_in) / n_out;
  double at = 0.5 * step;
  for (int& source : found) {
    source = std::min(static_cast<int>(std::floor(at)), n_in - 1);
    at += step;
  }
  return found;
}

}  // namespace ntre
