// What every target demands: an input is read, or refused with an input error of one line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "ntre/error.hpp"

namespace ntre {

inline void demand(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

// The input in memory of its own size, so that a sanitizer sees a byte read beyond it.
template <typename Read>
int read_hostile(const std::uint8_t* data, std::size_t size, const Read& read) {
  const std::string_view content(reinterpret_cast<const char*>(data), size);
  try {
    read(content);
  } catch (const Error& error) {
    demand(error.code() == ErrorCode::input, "a file is refused as bad input");
    demand(std::strlen(error.what()) > 0, "an error says something");
  }
  return 0;
}

}  // namespace ntre
