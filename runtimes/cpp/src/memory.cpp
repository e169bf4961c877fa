#include "memory.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "errors.hpp"
#include "json.hpp"
#include "safetensors.hpp"
#include "sha256.hpp"

namespace ntre {

namespace {

constexpr char kMemoryFormat[] = "ntre-support";
// 1 had neither calibration nor shot scores, 2 no digest; both are still read
constexpr int kVersion = 3;
constexpr char kKey[] = "ntre";
constexpr std::size_t kDigits = 64;

Json content_of(const std::map<std::string, std::string>& metadata, const std::string& what) {
  const auto found = metadata.find(kKey);
  try {
    Json content = parse_json(found == metadata.end() ? std::string_view() : found->second);
    return content.is_object() ? content : Json::object();
  } catch (const JsonRangeError&) {
    throw input_error(what +
                      " holds a calibration that cannot be, or scores (a number is beyond all bounds); a finite offset "
                      "and a scale above 0 are expected: make it again.");
  } catch (const JsonError&) {
    return Json::object();
  }
}

int version_of(const Json& content) {
  const auto format = content.find("format"), version = content.find("version");
  if (format == content.end() || *format != kMemoryFormat || version == content.end()) return 0;
  for (int known = 1; known <= kVersion; ++known)
    if (version->is_number() && *version == known) return known;
  return 0;
}

void check_digest(std::string_view file, const Json& content, int version, const std::string& what, const Warn& warn) {
  const auto found = content.find("sha256");
  if ((found == content.end() || found->is_null()) && version != kVersion) {
    if (warn)
      warn(what + " is of version " + std::to_string(version) +
           ", without a digest: damage to it would go unseen; write it anew with `ntre segment BUNDLE --memory " +
           what + " --save-memory FOLDER`.");
    return;
  }
  const std::string digest = found != content.end() && found->is_string() ? found->get<std::string>() : std::string();
  // in lower case only, as every bit of the file counts
  const bool digits = digest.size() == kDigits && digest.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!digits)
    throw input_error(what + " lacks the digest of its content, so it is damaged; copy it again or encode it again.");
  std::string zeroed(file);
  if (const auto place = zeroed.find(digest); place != std::string::npos)
    std::fill_n(zeroed.begin() + static_cast<std::ptrdiff_t>(place), kDigits, '0');
  if (sha256(zeroed) != digest)
    throw input_error(what +
                      " has been changed: its SHA-256 is not the one that it carries; copy it again or encode it "
                      "again.");
}

// a finite number that float32 holds too
bool is_number(const Json& value) { return value.is_number() && std::abs(value.get<double>()) <= double{FLT_MAX}; }

// as Python prints it
std::string text_of(const Json& content, const char* key, const std::string& otherwise) {
  const auto found = content.find(key);
  if (found == content.end()) return otherwise;
  return found->is_string() ? found->get<std::string>() : shown(*found);
}

std::optional<Calibration> calibration_of(const Json& content, const std::string& what) {
  if (!content.contains("offset") && !content.contains("scale")) return std::nullopt;
  const Json offset = content.value("offset", Json(0.0)), scale = content.value("scale", Json(1.0));
  if (!is_number(offset) || !is_number(scale) || scale.get<double>() <= 0)
    throw input_error(what + " holds a calibration that cannot be (offset " + text_of(content, "offset", "None") +
                      ", scale " + text_of(content, "scale", "None") +
                      "); a finite offset and a scale above 0 are expected: make it again.");
  return Calibration{offset.get<double>(), scale.get<double>()};
}

std::optional<std::vector<double>> scores_of(const Json& content, std::size_t shots, const std::string& what) {
  const auto found = content.find("shot_scores");
  if (found == content.end() || found->is_null()) return std::nullopt;
  const auto fits = [](const Json& value) { return is_number(value) && value >= 0 && value <= 1; };
  if (!found->is_array() || found->size() != shots || !std::all_of(found->begin(), found->end(), fits))
    throw input_error(what + " holds shot scores that cannot be; " + std::to_string(shots) +
                      " numbers from 0 to 1 are expected: make it again.");
  return found->get<std::vector<double>>();
}

std::vector<float> finite_floats(const TensorView* tensor, std::size_t dimensions, const Error& wrong) {
  if (tensor == nullptr || tensor->dtype != "F32" || tensor->shape.size() != dimensions || tensor->shape[0] < 1)
    throw wrong;
  auto values = floats(*tensor);
  if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) throw wrong;
  return values;
}

}  // namespace

std::string SupportMemory::to_bytes() const {
  std::vector<FloatTensor> tensors;
  for (std::size_t k = 0; k < keys.size(); ++k)
    tensors.push_back({"keys." + std::to_string(k), {keys[k].depth, keys[k].count}, keys[k].data.data()});
  tensors.push_back({"prototype", {prototype.size()}, prototype.data()});
  Json content = {{"format", kMemoryFormat}, {"version", kVersion},          {"name", name},
                  {"model", model},          {"shot_scores", Json(nullptr)}, {"sha256", std::string(kDigits, '0')}};
  if (shot_scores) content["shot_scores"] = *shot_scores;
  if (calibration) {
    content["offset"] = calibration->offset;
    content["scale"] = calibration->scale;
  }
  const std::string text = content.dump(-1, ' ', true, Json::error_handler_t::replace);
  std::string file = write_safetensors(tensors, {{kKey, text}});
  // JSON in JSON: inside a class name, the quotes would be escaped once more
  const std::string place = R"(\"sha256\":\")";
  const auto at = file.find(place + std::string(kDigits, '0')) + place.size();
  return file.replace(at, kDigits, sha256(file));
}

SupportMemory SupportMemory::from_bytes(std::string_view file, const std::string& what, const Warn& warn) {
  Safetensors read;
  try {
    read = read_safetensors(file);
  } catch (const SafetensorsError& error) {
    throw input_error(what + " is not a readable support memory: " + error.what() + ".");
  }
  const Json content = content_of(read.metadata, what);
  const int version = version_of(content);
  if (version == 0)
    throw input_error(what + " is no support memory of version 1, 2 or 3; make one with `encode_support`.");
  check_digest(file, content, version, what, warn);

  const Error wrong = input_error(what + " does not hold the arrays of a support memory; make it again.");
  const auto tensor = [&](const std::string& name) {
    const auto found = read.tensors.find(name);
    return found == read.tensors.end() ? nullptr : &found->second;
  };
  SupportMemory memory;
  memory.prototype = finite_floats(tensor("prototype"), 1, wrong);
  for (std::size_t k = 0; k + 1 < read.tensors.size(); ++k) {
    const TensorView* shot = tensor("keys." + std::to_string(k));
    auto values = finite_floats(shot, 2, wrong);
    memory.keys.push_back({std::move(values), shot->shape[0], shot->shape[1]});
    if (memory.keys[k].depth != memory.keys[0].depth) throw wrong;
  }
  if (memory.keys.empty()) throw wrong;
  memory.calibration = calibration_of(content, what);
  memory.shot_scores = scores_of(content, memory.keys.size(), what);
  memory.name = text_of(content, "name", "");
  memory.model = text_of(content, "model", "");
  return memory;
}

void SupportMemory::save(const fs::path& path) const { write_file(path, to_bytes()); }

SupportMemory SupportMemory::load(const fs::path& path, const Warn& warn) {
  std::error_code failed;
  if (!fs::is_regular_file(path, failed))
    throw input_error("Support memory " + path.string() + " does not exist or is not a file.");
  return from_bytes(read_file(path, "Support memory"), path.string(), warn);
}

Keys compact_keys(const std::vector<float>& keys, std::size_t depth) {
  const std::size_t places = depth == 0 ? 0 : keys.size() / depth;
  std::vector<char> used(places, 0);
  for (std::size_t d = 0, i = 0; d < depth; ++d)
    for (std::size_t m = 0; m < places; ++m, ++i) used[m] = static_cast<char>(used[m] | (keys[i] != 0));
  std::vector<std::size_t> kept;
  for (std::size_t m = 0; m < places; ++m)
    if (used[m]) kept.push_back(m);
  Keys compact{{}, depth, kept.size()};
  compact.data.reserve(depth * kept.size());
  for (std::size_t d = 0; d < depth; ++d)
    for (const std::size_t m : kept) compact.data.push_back(keys[d * places + m]);
  return compact;
}

std::vector<Calibration> calibrations(const Memories& memories) {
  std::vector<Calibration> known;
  for (const auto& memory : memories)
    if (memory->calibration) known.push_back(*memory->calibration);
  if (known.size() == memories.size() && memories.size() > 1) return known;
  return std::vector<Calibration>(memories.size());
}

}  // namespace ntre
