// The manifest of a bundle.
#include <algorithm>

#include "fuzz.hpp"
#include "manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return ntre::read_hostile(data, size, [](std::string_view content) {
    const ntre::Manifest manifest = ntre::parse_manifest("manifest.json", content);
    ntre::demand(manifest.input.size > 0 && manifest.input.size <= ntre::kMaxInputSize, "the input has a size");
    for (const double std : manifest.input.std) ntre::demand(std > 0, "a deviation is above 0");
    for (const auto& file : manifest.files) {
      const bool plain = !file.name.empty() && file.name != "." && file.name != ".." &&
                         file.name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
      ntre::demand(plain, "a name stays in its folder");
    }
    for (const auto& engine : manifest.engines) {
      for (const auto& wanted : {engine.support, engine.query}) {
        ntre::demand(std::any_of(manifest.files.begin(), manifest.files.end(),
                                 [&](const auto& file) { return file.name == wanted; }),
                     "an engine's graphs are listed");
      }
    }
  });
}
