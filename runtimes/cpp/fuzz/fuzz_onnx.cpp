// The walk through an ONNX file that looks for external data.
#include "fuzz.hpp"
#include "onnxfile.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return ntre::read_hostile(data, size,
                            [](std::string_view content) { ntre::check_self_contained(content, "query.onnx"); });
}
