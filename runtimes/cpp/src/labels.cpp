#include "labels.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>

#include "errors.hpp"
#include "lanes.hpp"
#include "wayback.hpp"

namespace ntre {
namespace {

// columns that are as well done with their neighbours as told from them
constexpr std::size_t kGap = 16;
constexpr float kWhole = 1;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

int checked_classes(int classes) {
  if (classes < 1 || classes > kMaxClasses) {
    throw input_error(std::to_string(classes) + " classes were given; a label map holds 1 to " +
                      std::to_string(kMaxClasses) + ".");
  }
  return classes;
}

// A line of the photo as a mean of some lines [h, W]: the shares are the same in all columns.
struct Mean {
  const float* first;
  std::size_t step;  // from a line to the next
  int taps;
  const float* shares;  // [taps], each `stride` values after the one before
  std::size_t stride;

  Mean from(std::size_t column) const { return {first + column, step, taps, shares, stride}; }
};

// `take` of each column's value. Nearly all means are of two lines or three, which are worth loops of their own.
template <typename Take>
NTRE_INLINE void each(const Mean& mean, std::size_t count, const Take& take) {
  const float* a = mean.first;
  const float s = mean.shares[0];
  if (mean.taps == 2) {
    const float* b = a + mean.step;
    const float t = mean.shares[mean.stride];
    for (std::size_t x = 0; x < count; ++x) take(x, a[x] * s + b[x] * t);
  } else if (mean.taps == 3) {
    const float *b = a + mean.step, *c = b + mean.step;
    const float t = mean.shares[mean.stride], u = mean.shares[2 * mean.stride];
    for (std::size_t x = 0; x < count; ++x) take(x, a[x] * s + b[x] * t + c[x] * u);
  } else {
    for (std::size_t x = 0; x < count; ++x) {
      float sum = a[x] * s;
      for (std::size_t k = 1; k < at(mean.taps); ++k) sum += a[k * mean.step + x] * mean.shares[k * mean.stride];
      take(x, sum);
    }
  }
}

NTRE_CLONES void means(const Mean& mean, float* __restrict out, std::size_t count) {
  each(mean, count, [=](std::size_t x, float value) { out[x] = value; });
}

NTRE_CLONES void marks(const Mean& mean, std::uint8_t* __restrict out, std::size_t count) {
  each(mean, count, [=](std::size_t x, float value) { out[x] = value > 0 ? 1 : 0; });
}

// A class's margins against the best ones so far. NaN wins nowhere and is never beaten, as in Python.
NTRE_CLONES void challenge(const Mean& mean, std::int32_t number, float* __restrict best,
                           std::int32_t* __restrict winners, std::size_t count) {
  each(mean, count, [=](std::size_t x, float value) {
    const float before = best[x];
    winners[x] = value > before ? number : winners[x];
    best[x] = value > before || value != value ? value : before;
  });
}

NTRE_CLONES void narrow(const std::int32_t* __restrict winners, std::uint8_t* __restrict labels, std::size_t count) {
  for (std::size_t x = 0; x < count; ++x) labels[x] = static_cast<std::uint8_t>(winners[x]);
}

NTRE_CLONES void widen_bounds(const float* __restrict values, float* __restrict lower, float* __restrict upper,
                              std::size_t count) {
  for (std::size_t x = 0; x < count; ++x) {
    lower[x] = values[x] < lower[x] ? values[x] : lower[x];
    upper[x] = values[x] > upper[x] || values[x] != values[x] ? values[x] : upper[x];
  }
}

// `out` [axis.length] = the means of one line of features, whose shares differ from column to column.
NTRE_CLONES void spread(const float* features, const WayBack& axis, float* __restrict out) {
  const float* s = axis.share(0);
  for (const WayBack::Run& run : axis.runs) {
    const float* from = features + run.first;
    if (run.taps == 2) {
      const float* t = axis.share(1);
      for (int x = run.begin; x < run.end; ++x) out[x] = from[0] * s[x] + from[1] * t[x];
    } else if (run.taps == 3) {
      const float *t = axis.share(1), *u = axis.share(2);
      for (int x = run.begin; x < run.end; ++x) out[x] = from[0] * s[x] + from[1] * t[x] + from[2] * u[x];
    } else {
      for (int x = run.begin; x < run.end; ++x) {
        out[x] = from[0] * s[x];
        for (int k = 1; k < run.taps; ++k) out[x] += from[k] * axis.share(k)[x];
      }
    }
  }
}

// Margins [classes, h, W] with the photo's own columns, and the axis of rows that is left.
class Margins {
 public:
  Margins(const Logits& logits, int from, int classes, const Letterbox& box)
      : classes_(checked_classes(classes)),
        features_(at(logits.height)),
        width_(at(box.width)),
        rows_(way_back(box.height, box.inner_height, box.size, logits.height)),
        values_(at(classes) * features_ * width_) {
    const WayBack columns = way_back(box.width, box.inner_width, box.size, logits.width);
    const std::size_t w = at(logits.width), plane = at(logits.height) * w;
    std::vector<float> margin(w);
    float* out = values_.data();
    for (int n = from; n < from + classes; ++n) {
      for (std::size_t y = 0; y < features_; ++y, out += width_) {
        // the maps are linear, so the difference may go through them alone
        const float* rest = logits.data + 2 * at(n) * plane + y * w;
        for (std::size_t x = 0; x < w; ++x) margin[x] = rest[plane + x] - rest[x];
        spread(margin.data(), columns, out);
      }
    }
  }

  int classes() const { return classes_; }
  std::size_t features() const { return features_; }
  std::size_t width() const { return width_; }
  const WayBack& rows() const { return rows_; }
  // line `feature` of class `n`
  const float* line(int n, std::size_t feature) const {
    return values_.data() + (at(n) * features_ + feature) * width_;
  }

  // Row `y` of the photo, one of `rows`, as a mean of the lines of class `n`.
  Mean row(int n, const WayBack::Run& rows, int y) const {
    return {line(n, at(rows.first)), width_, rows.taps, rows_.share(0) + y, at(rows_.length)};
  }

 private:
  int classes_;
  std::size_t features_, width_;
  WayBack rows_;
  std::vector<float> values_;
};

// Neighbouring columns of which some have more than one winner among the lines that a row is a mean of.
struct Columns {
  std::size_t begin, count;
  std::vector<int> able;  // classes that may win there
};

class Labeller {
 public:
  explicit Labeller(const Margins& margins)
      : margins_(margins),
        winners_(margins.features() * margins.width()),
        best_(margins.width()),
        values_(margins.width()),
        upper_(margins.width()),
        lead_(margins.width()),
        numbers_(margins.width()) {
    for (std::size_t y = 0; y < margins.features(); ++y) {
      start(margins.width());
      for (int n = 0; n < margins.classes(); ++n) {
        challenge({margins.line(n, y), 0, 1, &kWhole, 0}, n + 1, best_.data(), numbers_.data(), margins.width());
      }
      narrow(numbers_.data(), winners_.data() + y * margins.width(), margins.width());
    }
  }

  void run(std::uint8_t* labels) {
    const std::size_t width = margins_.width();
    for (const WayBack::Run& rows : margins_.rows().runs) {
      const std::uint8_t* settled = winners_.data() + at(rows.first) * width;
      const std::vector<Columns> open = unsettled(rows);
      for (int y = rows.begin; y < rows.end; ++y) {
        std::uint8_t* out = labels + at(y) * width;
        std::memcpy(out, settled, width);
        for (const Columns& columns : open) decide(columns, rows, y, out + columns.begin);
      }
    }
  }

 private:
  void start(std::size_t count) {
    std::fill_n(best_.begin(), count, 0.0F);
    std::fill_n(numbers_.begin(), count, 0);
  }

  // A margin is a mean of lines: who wins in all of them wins in between, and most columns are such.
  std::vector<Columns> unsettled(const WayBack::Run& rows) {
    const std::size_t width = margins_.width();
    const std::uint8_t* top = winners_.data() + at(rows.first) * width;
    std::vector<Columns> found;
    for (std::size_t x = 0; x < width; ++x) {
      bool same = true;
      for (int t = 1; t < rows.taps; ++t) same = same && top[at(t) * width + x] == top[x];
      if (same) continue;
      if (!found.empty() && x - (found.back().begin + found.back().count) < kGap) {
        found.back().count = x + 1 - found.back().begin;
      } else {
        found.push_back({x, 1, {}});
      }
    }
    for (Columns& columns : found) find_able(columns, rows);
    return found;
  }

  // A class cannot win that stays below zero or below another; NaN is neither.
  void find_able(Columns& columns, const WayBack::Run& rows) {
    if (margins_.classes() == 1) {
      columns.able = {0};
      return;
    }
    float *lower = values_.data(), *upper = upper_.data(), *lead = lead_.data();
    const auto bound = [&](int n) {
      const float* line = margins_.line(n, at(rows.first)) + columns.begin;
      std::copy_n(line, columns.count, lower);
      std::copy_n(line, columns.count, upper);
      for (int t = 1; t < rows.taps; ++t) {
        widen_bounds(line + at(t) * margins_.width(), lower, upper, columns.count);
      }
    };
    std::fill_n(lead, columns.count, 0.0F);
    for (int n = 0; n < margins_.classes(); ++n) {
      bound(n);
      for (std::size_t x = 0; x < columns.count; ++x) lead[x] = lower[x] > lead[x] ? lower[x] : lead[x];
    }
    for (int n = 0; n < margins_.classes(); ++n) {
      bound(n);
      bool able = false;
      for (std::size_t x = 0; x < columns.count; ++x) able = able || !(upper[x] <= 0 || upper[x] < lead[x]);
      if (able) columns.able.push_back(n);
    }
  }

  void decide(const Columns& columns, const WayBack::Run& rows, int y, std::uint8_t* labels) {
    if (margins_.classes() == 1) {
      marks(margins_.row(0, rows, y).from(columns.begin), labels, columns.count);
      return;
    }
    start(columns.count);
    for (const int n : columns.able) {
      challenge(margins_.row(n, rows, y).from(columns.begin), n + 1, best_.data(), numbers_.data(), columns.count);
    }
    narrow(numbers_.data(), labels, columns.count);
  }

  const Margins& margins_;
  std::vector<std::uint8_t> winners_;  // [h, W], of each line
  std::vector<float> best_, values_, upper_, lead_;
  std::vector<std::int32_t> numbers_;
};

}  // namespace

void label_map(const Logits& logits, const Letterbox& box, std::uint8_t* labels) {
  const Margins margins(logits, 0, logits.classes, box);
  Labeller(margins).run(labels);
}

std::vector<double> class_scores(const std::uint8_t* labels, const Logits& logits, const Letterbox& box) {
  const Margins margins(logits, 0, logits.classes, box);
  const std::size_t classes = at(logits.classes), width = margins.width();
  std::vector<double> sums(classes + 1);
  std::vector<std::int64_t> counts(classes + 1);
  std::vector<float> values(classes * width);
  for (const WayBack::Run& rows : margins.rows().runs) {
    for (int y = rows.begin; y < rows.end; ++y) {
      const std::uint8_t* row = labels + at(y) * width;
      // nobody asks for the background's
      if (std::all_of(row, row + width, [](std::uint8_t label) { return label == 0; })) continue;
      for (int n = 0; n < logits.classes; ++n) means(margins.row(n, rows, y), values.data() + at(n) * width, width);
      for (std::size_t x = 0; x < width; ++x) {
        if (row[x] == 0) continue;
        // the winner's margin is the largest
        float top = 0, sum = 0;
        for (std::size_t n = 0; n < classes; ++n) top = std::max(top, values[n * width + x]);
        for (std::size_t n = 0; n < classes; ++n) sum += std::exp(values[n * width + x] - top);
        sums[row[x]] += static_cast<double>(1 / (sum + std::exp(-top)));
        counts[row[x]]++;
      }
    }
  }
  std::vector<double> scores(classes);
  for (std::size_t n = 0; n < classes; ++n) {
    if (counts[n + 1] > 0) scores[n] = std::min(sums[n + 1] / static_cast<double>(counts[n + 1]), 1.0);
  }
  return scores;
}

void margin_map(const Logits& logits, int n, const Letterbox& box, float* out) {
  const Margins margins(logits, n, 1, box);
  for (const WayBack::Run& rows : margins.rows().runs) {
    for (int y = rows.begin; y < rows.end; ++y) {
      means(margins.row(0, rows, y), out + at(y) * margins.width(), margins.width());
    }
  }
}

}  // namespace ntre
