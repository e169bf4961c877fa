#include "errors.hpp"

#include <algorithm>

namespace ntre {

std::string joined(const std::vector<std::string>& parts, const std::string& between) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i ? between : "") + parts[i];
  return text;
}

void check_one_of(const std::string& given, const std::vector<std::string>& known, const std::string& what) {
  if (std::find(known.begin(), known.end(), given) == known.end())
    throw input_error(what + " '" + given + "' is unknown; it must be one of " + joined(known) + ".");
}

}  // namespace ntre
