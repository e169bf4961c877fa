#include "manifest.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "errors.hpp"
#include "json.hpp"

namespace ntre {

namespace {

constexpr char kBundleFormat[] = "ntre-bundle";
// 1 had keys of one length for all shots in the query graph's input
constexpr int kSchema = 2;
constexpr double kMaxNumber = 1e6;
constexpr std::size_t kMaxName = 200;
// beyond any network; keeps products of sizes far from what overflows
constexpr std::uint64_t kMaxChannels = 1 << 16;

// how the runtime prepares an image; another version may know others, and must not be misread by this one
constexpr std::pair<const char*, const char*> kConvention[] = {
    {"channels", "RGB"},
    {"scale", "(pixel - mean) / std, pixels in 0..255"},
    {"protocol", "exact"},
    {"resize", "letterbox at the top left, bilinear with pixel centres aligned, area average below factor 0.5"},
};

struct MissingEntry {
  std::string name;
};

const Json& entry(const Json& object, const std::string& key) {
  const auto found = object.find(key);
  if (found == object.end()) throw MissingEntry{key};
  return *found;
}

const Json& dict(const Json& value, const std::string& what) {
  if (!value.is_object()) throw input_error(what + " is " + shown(value) + " where an object is expected.");
  return value;
}

const Json& list(const Json& value, const std::string& what, std::size_t length = 0) {
  if (!value.is_array() || (length && value.size() != length)) {
    const std::string expected = length ? "a list of " + std::to_string(length) : "a list";
    throw input_error(what + " is " + shown(value) + " where " + expected + " is expected.");
  }
  return value;
}

std::string text(const Json& value, const std::string& what) {
  if (!value.is_string()) throw input_error(what + " is " + shown(value) + " where a text is expected.");
  return value.get<std::string>();
}

double number(const Json& value, const std::string& what) {
  // written so that NaN fails
  if (!value.is_number() || !(std::abs(value.get<double>()) < kMaxNumber))
    throw input_error(what + " holds " + shown(value) + " where a number is expected.");
  return value.get<double>();
}

std::uint64_t positive(const Json& value, const std::string& what) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() < 1)
    throw input_error(what + " is " + shown(value) + " where a whole number from 1 on is expected.");
  return value.get<std::uint64_t>();
}

std::uint64_t positive_to(std::uint64_t most, const Json& value, const std::string& what) {
  const auto found = positive(value, what);
  if (found > most)
    throw input_error(what + " is " + std::to_string(found) + "; at most " + std::to_string(most) + " is supported.");
  return found;
}

std::array<double, 3> three(const Json& value, const std::string& what) {
  std::array<double, 3> numbers{};
  const Json& given = list(value, what, 3);
  for (std::size_t i = 0; i < 3; ++i) numbers[i] = number(given[i], what);
  return numbers;
}

bool alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
}

// no separators, drive letters, hidden names or line breaks, and short enough for every file system
bool is_plain(const std::string& name) {
  if (name.empty() || name.size() > kMaxName || !alphanumeric(name[0])) return false;
  for (const char c : name)
    if (!alphanumeric(c) && c != '.' && c != '+' && c != '-') return false;
  std::string lower = name;
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower != kManifest && lower != kSignature;
}

FileEntry parse_file(const Json& given) {
  const auto name = text(entry(given, "name"), "file name");
  if (!is_plain(name))
    throw input_error("the file name " + shown(name) + " leaves the bundle's folder or is not allowed.");
  FileEntry file;
  file.name = name;
  file.role = text(entry(given, "role"), "role");
  file.engine = text(entry(given, "engine"), "engine");
  text(entry(given, "precision_asked"), "precision_asked");
  file.precision = text(entry(given, "precision_found"), "precision_found");
  file.size = positive(entry(given, "size"), "size");
  file.sha256 = text(entry(given, "sha256"), "sha256");
  dict(entry(given, "details"), "details");
  return file;
}

EngineEntry parse_engine(const Json& given, const std::vector<FileEntry>& files) {
  const auto reads = [&](const char* role) {
    auto name = text(entry(given, role), role);
    const auto fits = [&](const FileEntry& file) { return file.role == role && file.name == name; };
    if (std::none_of(files.begin(), files.end(), fits))
      throw input_error("an engine reads " + shown(name) + ", which is no " + role + " graph of the bundle.");
    return name;
  };
  EngineEntry engine;
  engine.support = reads("support");
  engine.query = reads("query");
  engine.engine = text(entry(given, "engine"), "engine");
  text(entry(given, "precision_asked"), "precision_asked");
  engine.precision = text(entry(given, "precision_found"), "precision_found");
  dict(entry(given, "details"), "details");
  return engine;
}

template <class Items, class Key>
bool repeats(const Items& items, Key key) {
  std::set<decltype(key(items.front()))> seen;
  for (const auto& item : items)
    if (!seen.insert(key(item)).second) return true;
  return false;
}

ModelEntry parse_model(const Json& given) {
  ModelEntry model;
  const Json& sides = list(entry(given, "feature_size"), "feature_size", 2);
  model.feature_height = positive_to(kMaxInputSize, sides[0], "feature_size");
  model.feature_width = positive_to(kMaxInputSize, sides[1], "feature_size");
  model.id = text(entry(given, "id"), "model.id");
  dict(entry(given, "config"), "model.config");
  text(entry(given, "checkpoint_sha256"), "model.checkpoint_sha256");
  dict(entry(given, "origin"), "model.origin");
  model.prototype_channels = positive_to(kMaxChannels, entry(given, "prototype_channels"), "prototype_channels");
  model.key_channels = positive_to(kMaxChannels, entry(given, "key_channels"), "key_channels");
  return model;
}

InputSpec parse_input(const Json& given) {
  const auto size = positive_to(kMaxInputSize, entry(given, "size"), "input.size");
  for (const auto& [key, value] : kConvention) {
    const Json& found = entry(given, key);
    if (found != value)
      throw input_error("input." + std::string(key) + " is " + shown(found) +
                        ", which this version of ntre does not know.");
  }
  InputSpec spec{static_cast<int>(size), three(entry(given, "mean"), "mean"), three(entry(given, "std"), "std")};
  if (*std::min_element(spec.std.begin(), spec.std.end()) <= 0) throw input_error("std must be above 0.");
  return spec;
}

Manifest parse(const Json& content) {
  Manifest manifest;
  const Json& model = dict(entry(content, "model"), "model");
  const Json& input = dict(entry(content, "input"), "input");
  for (const Json& file : list(entry(content, "files"), "files"))
    manifest.files.push_back(parse_file(dict(file, "a file")));
  const auto& files = manifest.files;
  if (repeats(files, [](const FileEntry& f) { return f.name; })) throw input_error("a file is listed twice.");
  if (repeats(files, [](const FileEntry& f) { return std::tuple(f.role, f.engine, f.precision); }))
    throw input_error("two files have the same role, engine and precision.");
  // bundles from before these engines have no such list
  if (const auto engines = content.find("engines"); engines != content.end())
    for (const Json& engine : list(*engines, "engines"))
      manifest.engines.push_back(parse_engine(dict(engine, "an engine"), files));
  if (repeats(manifest.engines, [](const EngineEntry& e) { return std::tuple(e.engine, e.precision); }))
    throw input_error("two engines have the same name and precision.");
  manifest.input = parse_input(input);
  manifest.model = parse_model(model);
  manifest.name = text(entry(content, "name"), "name");
  for (const Json& found : list(entry(content, "verification"), "verification")) dict(found, "verification");
  for (const auto& [key, value] : dict(entry(content, "versions"), "versions").items()) text(value, "versions");
  return manifest;
}

}  // namespace

Manifest parse_manifest(const std::string& where, std::string_view bytes) {
  Json content;
  try {
    content = parse_json(bytes);
  } catch (const JsonError& error) {
    throw input_error(where + " is not readable JSON (" + error.what() + "); export the bundle again.");
  }
  const auto format = content.is_object() ? content.find("format") : content.end();
  if (!content.is_object() || format == content.end() || *format != kBundleFormat)
    throw input_error(where + " is not the manifest of an ntre bundle.");
  const auto found = content.find("schema");
  const Json schema = found == content.end() ? Json() : *found;
  if (!schema.is_number_integer() || schema != kSchema)
    throw input_error(where + " has schema version " + shown(schema) + "; this version of ntre reads " +
                      std::to_string(kSchema) + ": install the version that wrote it, or export the checkpoint again.");
  try {
    return parse(content);
  } catch (const Error& error) {
    throw input_error(where + ": " + error.what() + " Export the bundle again.");
  } catch (const MissingEntry& error) {
    throw input_error(where + " lacks the entry '" + error.name + "'; export the bundle again.");
  }
}

}  // namespace ntre
