#include "cpu.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace ntre {

namespace {

// names of the instruction sets as Linux writes them; empty where the system does not tell
const std::vector<std::string>& flags() {
  static const std::vector<std::string> found = [] {
    std::ifstream file("/proc/cpuinfo");
    std::vector<std::string> words;
    for (std::string line; std::getline(file, line);) {
      if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
      std::istringstream text(line.substr(std::min(line.find(':') + 1, line.size())));
      for (std::string word; text >> word;) words.push_back(word);
      break;
    }
    return words;
  }();
  return found;
}

bool any_of(std::initializer_list<const char*> wanted) {
  const auto& found = flags();
  return std::any_of(wanted.begin(), wanted.end(),
                     [&](const char* flag) { return std::find(found.begin(), found.end(), flag) != found.end(); });
}

}  // namespace

bool native_bf16() { return any_of({"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16"}); }

bool native_int8() { return any_of({"amx_int8", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "asimddp"}); }

}  // namespace ntre
