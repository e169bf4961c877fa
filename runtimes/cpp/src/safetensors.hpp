// safetensors files: a little-endian 64-bit length, a JSON header, and the bytes of the tensors. Read as the hostile
// files that they may be: what is not exactly that is refused, as by the reference implementation.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ntre {

// What is wrong with a file; without its name.
struct SafetensorsError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct TensorView {
  std::string dtype;  // such as F32
  std::vector<std::uint64_t> shape;
  std::string_view bytes;  // of the file that was read
};

struct Safetensors {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

// Throws SafetensorsError. The tensors point into `file`, which must outlive them.
Safetensors read_safetensors(std::string_view file);

// The values of a tensor of dtype F32, copied so that they are aligned.
std::vector<float> floats(const TensorView& tensor);

struct FloatTensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  const float* data;
};

// A file of float32 tensors and metadata.
std::string write_safetensors(const std::vector<FloatTensor>& tensors,
                              const std::vector<std::pair<std::string, std::string>>& metadata);

}  // namespace ntre
