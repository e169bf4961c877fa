// How far a runtime is off, as docs/conformance.md defines it: none where there is nothing to compare.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <vector>

namespace ntre {

using Measure = std::optional<double>;

constexpr double kNoNumber = std::numeric_limits<double>::quiet_NaN();

inline Measure flag(bool holds) { return holds ? 0.0 : 1.0; }

// max |a - b|; NaN where one holds NaN
template <class A, class B>
Measure largest(const A& found, const B& expected) {
  if (found.size() != expected.size()) return std::nullopt;
  double most = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double off = std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
    if (std::isnan(off)) return kNoNumber;
    most = std::max(most, off);
  }
  return most;
}

// max |a - b| / max(max |b|, 0.000001)
template <class A, class B>
Measure relative(const A& found, const B& expected) {
  const Measure off = largest(found, expected);
  if (!off) return off;
  double most = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) most = std::max(most, std::abs(static_cast<double>(expected[i])));
  return *off / std::max(most, 1e-6);
}

template <class A, class B>
Measure share(const A& found, const B& expected) {
  if (found.size() != expected.size()) return std::nullopt;
  std::size_t differ = 0;
  for (std::size_t i = 0; i < found.size(); ++i) differ += found[i] != expected[i];
  return found.size() == 0 ? 0.0 : static_cast<double>(differ) / static_cast<double>(found.size());
}

// the larger of two; none and NaN stay
inline Measure worst(const Measure& a, const Measure& b) {
  if (!a || !b) return std::nullopt;
  return std::isnan(*a) || std::isnan(*b) ? kNoNumber : std::max(*a, *b);
}

}  // namespace ntre
