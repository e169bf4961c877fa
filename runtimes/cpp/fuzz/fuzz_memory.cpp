// Support memories, and the safetensors files that they are.
#include "fuzz.hpp"
#include "memory.hpp"
#include "safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return ntre::read_hostile(data, size, [](std::string_view content) {
    try {
      std::size_t bytes = 0;
      for (const auto& [name, tensor] : ntre::read_safetensors(content).tensors) bytes += tensor.bytes.size();
      ntre::demand(bytes <= content.size(), "tensors lie in their file");
    } catch (const ntre::SafetensorsError&) {
      // which the memory's reader must see too
    }
    const auto memory = ntre::SupportMemory::from_bytes(content, "memory.safetensors");
    ntre::demand(!memory.keys.empty() && !memory.prototype.empty(), "a memory holds something");
    const std::string written = memory.to_bytes();
    const auto again = ntre::SupportMemory::from_bytes(written, "memory.safetensors");
    ntre::demand(again.prototype == memory.prototype && again.keys.size() == memory.keys.size(), "it is read back");
    ntre::demand(again.calibration.has_value() == memory.calibration.has_value(), "with its calibration");
    ntre::demand(again.shot_scores == memory.shot_scores, "and its scores");
    ntre::demand(again.to_bytes() == written, "and is written alike");
  });
}
