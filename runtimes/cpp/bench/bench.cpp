// The C++ side of benchmarks/runtimes, which speaks its protocol: once everything is loaded, a line `ready`; then for
// each line `PART COUNT` of the standard input a JSON list of so many times in milliseconds, and for `labels FILE` the
// label map in that file.
//
//   ntre-bench BUNDLE PRECISION THREADS MEMORY IMAGE WIDTH HEIGHT
//
// IMAGE holds the pixels alone: RGB, row by row.
#include <chrono>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "files.hpp"
#include "labels.hpp"
#include "pipeline.hpp"

namespace {

template <typename Call>
std::string timed(int count, const Call& call) {
  std::string told = "[";
  for (int n = 0; n < count; ++n) {
    const auto begun = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begun;
    told += (n ? ", " : "") + std::to_string(took.count());
  }
  return told + "]";
}

int run(char** given) {
  ntre::LoadOptions options;
  options.engine = "openvino";
  options.precision = given[2];
  options.engine_options.threads = std::stoi(given[3]);
  auto pipeline = ntre::Pipeline::load(given[1], options);
  const ntre::Memories memories{std::make_shared<ntre::SupportMemory>(ntre::SupportMemory::load(given[4]))};
  const std::string pixels = ntre::read_file(given[5], "Image");
  const int width = std::stoi(given[6]), height = std::stoi(given[7]);
  const ntre::ImageView image{reinterpret_cast<const std::uint8_t*>(pixels.data()), width, height,
                              3 * std::ptrdiff_t{width}};
  std::vector<std::uint8_t> labels(pixels.size() / 3);
  const auto size = static_cast<std::size_t>(pipeline.spec().size);
  std::vector<float> prepared(3 * size * size);
  ntre::Letterbox box{};
  const std::vector<float> logits = pipeline.logits(image, memories, box);
  const ntre::Logits found{logits.data(), 1, static_cast<int>(pipeline.model().feature_height),
                           static_cast<int>(pipeline.model().feature_width)};
  std::cout << "ready" << std::endl;
  for (std::string part, rest; std::cin >> part >> rest;) {
    if (part == "labels") {
      pipeline.segment(image, memories, labels.data(), nullptr);
      ntre::write_file(rest, {reinterpret_cast<const char*>(labels.data()), labels.size()});
      std::cout << "[]" << std::endl;
      continue;
    }
    const int count = std::stoi(rest);
    if (part == "whole")
      std::cout << timed(count, [&] { pipeline.segment(image, memories, labels.data(), nullptr); }) << std::endl;
    else if (part == "before")
      std::cout << timed(count, [&] { ntre::prepare_image(image, pipeline.spec(), prepared.data()); }) << std::endl;
    else if (part == "after")
      std::cout << timed(count, [&] { ntre::label_map(found, box, labels.data()); }) << std::endl;
    else
      return 2;
  }
  return 0;
}

}  // namespace

int main(int count, char** given) {
  if (count != 8) return 2;
  try {
    return run(given);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
