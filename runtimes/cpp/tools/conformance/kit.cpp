#include "kit.hpp"

#include <algorithm>

#include "errors.hpp"
#include "sha256.hpp"

namespace ntre {

namespace {

constexpr char kKit[] = "kit.json";
constexpr int kMostSide = 32767;

// what cannot be read of a kit is the kit's fault
std::string read_or_kit_error(const fs::path& path) {
  try {
    return read_file(path, "Kit file");
  } catch (const Error& error) {
    throw KitError(error.what());
  }
}

int side(const Json& entry, const char* key) {
  const Json& value = member(entry, key);
  if (!value.is_number_unsigned() || value < 1 || value > kMostSide) throw KitError(std::string(key) + " cannot be.");
  return value.get<int>();
}

}  // namespace

const Json& member(const Json& object, const std::string& key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end()) throw KitError("The kit lacks the entry '" + key + "'.");
  return *found;
}

const TensorView& TensorFile::tensor(const std::string& name, const char* dtype) const {
  const auto found = read.tensors.find(name);
  if (found == read.tensors.end() || found->second.dtype != dtype)
    throw KitError("A file of the kit has no tensor " + name + " of " + dtype + ".");
  return found->second;
}

Kit::Kit(fs::path folder) : folder_(std::move(folder)) {
  if (!is_plain_file(folder_ / kKit))
    throw KitError(folder_.string() +
                   " is no kit: it has no kit.json; make one with `ntre conformance BUNDLE --out KIT`.");
  const std::string text = read_or_kit_error(folder_ / kKit);
  sha256_ = ntre::sha256(text);
  try {
    content_ = parse_json(text);
  } catch (const JsonError& error) {
    throw KitError((folder_ / kKit).string() + " is not readable JSON (" + error.what() + "); make the kit again.");
  }
  if (!content_.is_object() || content_.value("format", Json()) != "ntre-conformance")
    throw KitError((folder_ / kKit).string() + " is not that of a conformance kit.");
  if (member(content_, "version") != 1)
    throw KitError((folder_ / kKit).string() + " is of version " + shown(content_["version"]) +
                   "; this version of ntre reads 1: make it again.");
  for (const char* key : {"bundle", "tolerances", "files", "images", "masks"})
    if (!member(content_, key).is_object()) throw KitError(std::string("The kit's entry '") + key + "' is no object.");
  if (!member(content_, "cases").is_array()) throw KitError("The kit's cases are no list.");
}

std::string Kit::bytes(const std::string& path) {
  const Json& entry = member(member(content_, "files"), path);
  const fs::path relative = fs::u8path(path);
  if (relative.is_absolute() || std::find(relative.begin(), relative.end(), "..") != relative.end())
    throw KitError("The kit's file " + path + " leaves its folder.");
  std::string found = read_or_kit_error(folder_ / relative);
  if (member(entry, "size") != found.size() || member(entry, "sha256") != ntre::sha256(found))
    throw KitError((folder_ / relative).string() + " has been changed; make the kit again.");
  return found;
}

fs::path Kit::file(const std::string& path) {
  bytes(path);
  return folder_ / fs::u8path(path);
}

std::unique_ptr<TensorFile> Kit::tensors(const std::string& path) {
  auto found = std::make_unique<TensorFile>();
  found->bytes = bytes(path);
  try {
    found->read = read_safetensors(found->bytes);
  } catch (const SafetensorsError& error) {
    throw KitError(path + " of the kit cannot be read: " + error.what() + ".");
  }
  return found;
}

Picture Kit::labels(const std::string& path) {
  try {
    return read_mask(file(path).string());
  } catch (const Error& error) {
    throw KitError(error.what());
  }
}

Picture Kit::repeated(const char* list, const std::string& name, int channels) {
  const Json& entry = member(content_[list], name);
  const Json& path = member(entry, "file");
  if (!path.is_string()) throw KitError("The file of " + name + " is no text.");
  Picture tile;
  try {
    const std::string found = file(path.get<std::string>()).string();
    tile = channels == 3 ? read_image(found) : read_mask(found);
  } catch (const Error& error) {
    throw KitError(error.what());
  }
  Picture out{side(entry, "width"), side(entry, "height"), channels, {}};
  // bytes of a row of the tile and of the picture
  const auto tile_row = static_cast<std::size_t>(tile.width * channels);
  const auto row = static_cast<std::size_t>(out.width * channels);
  out.bytes.resize(row * static_cast<std::size_t>(out.height));
  for (int y = 0; y < out.height; ++y) {
    const auto from = tile.bytes.begin() + static_cast<std::ptrdiff_t>(tile_row) * (y % tile.height);
    for (std::size_t at = 0; at < row; at += tile_row)
      std::copy_n(from, std::min(tile_row, row - at),
                  out.bytes.begin() + static_cast<std::ptrdiff_t>(row) * y + static_cast<std::ptrdiff_t>(at));
  }
  return out;
}

}  // namespace ntre
