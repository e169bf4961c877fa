#pragma once

#include <string>
#include <string_view>

namespace ntre {

// 64 lower-case hexadecimal digits.
std::string sha256(std::string_view content);

}  // namespace ntre
