// Support memories: what the network keeps of annotated images; the files of Python's `runtime.support`.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration.hpp"
#include "files.hpp"

namespace ntre {

// Keys of one shot [depth, count]: L2-normalised columns, only positions inside the mask.
struct Keys {
  std::vector<float> data;
  std::size_t depth = 0;
  std::size_t count = 0;
};

// Hears one line of what the user should know and what stops nothing.
using Warn = std::function<void(const std::string& text)>;

// One class, from one or more annotated images.
struct SupportMemory {
  std::string name;
  std::vector<float> prototype;  // mean over the shots
  std::vector<Keys> keys;        // of each shot
  std::string model;             // id of the model that made it; another model's queries cannot use it
  // what makes its margins comparable with those of the classes that it was encoded with; none where encoded alone
  std::optional<Calibration> calibration;
  // for each shot the IoU of its mask with the one that the other shots give; none with one shot, or if not computed
  std::optional<std::vector<double>> shot_scores;

  // The safetensors file of version 3, with a SHA-256 of itself.
  std::string to_bytes() const;

  // Reads a file of version 1 to 3; `what` names it in messages, and `warn` hears of those without a digest.
  // Throws an input error: not such a file, its digest is not that of its bytes, or its arrays or figures are not those
  // of a memory.
  static SupportMemory from_bytes(std::string_view file, const std::string& what, const Warn& warn = {});

  // Throws an input error: the file cannot be written.
  void save(const fs::path& path) const;

  // Throws an input error: it cannot be read, or as `from_bytes`.
  static SupportMemory load(const fs::path& path, const Warn& warn = {});
};

using Memories = std::vector<std::shared_ptr<const SupportMemory>>;

// Drops the zero columns of keys [depth, places], which never win a maximum.
Keys compact_keys(const std::vector<float>& keys, std::size_t depth);

// What the margins of these classes are compared by: neutral for one class, and where any was never calibrated.
std::vector<Calibration> calibrations(const Memories& memories);

}  // namespace ntre
