#include "bundle.hpp"

#include <algorithm>
#include <set>

#include "errors.hpp"
#include "json.hpp"
#include "letterbox.hpp"
#include "onnxfile.hpp"
#include "safetensors.hpp"
#include "sha256.hpp"
#include "signature.hpp"

namespace ntre {

namespace {

std::string manifest_bytes(const fs::path& folder) {
  const std::string bundle = folder.string();
  const fs::path path = folder / kManifest;
  std::error_code failed;
  if (!fs::is_directory(folder, failed))
    throw input_error("Bundle " + bundle +
                      " does not exist or is not a folder; make one with `ntre export CHECKPOINT`.");
  if (!is_plain_file(path))
    throw input_error(bundle + " is no bundle: it has no " + kManifest + "; make one with `ntre export CHECKPOINT`.");
  if (fs::file_size(path, failed) > kMaxManifestBytes)
    throw input_error(path.string() + " is larger than " + std::to_string(kMaxManifestBytes >> 20) +
                      " MiB, as no manifest is; export the bundle again.");
  return read_file(path, "Bundle");
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code failed;
  for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed))
    names.insert(it->path().filename().string());
  if (failed) throw input_error("Bundle " + folder.string() + " cannot be read: " + failed.message() + ".");
  return names;
}

void check_files(const fs::path& folder, const Manifest& manifest) {
  const std::string bundle = folder.string();
  std::set<std::string> unlisted = names_in(folder);
  for (const char* known : {kManifest, kSignature}) unlisted.erase(known);
  for (const auto& entry : manifest.files) unlisted.erase(entry.name);
  if (!unlisted.empty())
    throw input_error("Bundle " + bundle + " holds " + shown(*unlisted.begin()) +
                      ", which its manifest does not list; remove that file.");
  for (const auto& entry : manifest.files) {
    const fs::path path = folder / entry.name;
    if (!is_plain_file(path))
      throw input_error("Bundle " + bundle + " lacks its file " + entry.name + "; copy it whole or export it again.");
    std::error_code failed;
    const auto size = fs::file_size(path, failed);
    if (failed) throw input_error("Bundle " + bundle + " cannot be read: " + failed.message() + ".");
    if (size != entry.size)
      throw input_error(path.string() + " has " + std::to_string(size) + " bytes where the manifest says " +
                        std::to_string(entry.size) + "; copy the bundle whole or export it again.");
  }
}

// the bytes of a tensor [height, width, ...more] of the self-test
SelfTest::Plane plane(const Safetensors& read, const char* name, const std::vector<std::uint64_t>& more) {
  const auto found = read.tensors.find(name);
  if (found == read.tensors.end()) throw SafetensorsError(std::string("it has no ") + name);
  const auto& [dtype, shape, bytes] = found->second;
  const bool fits = dtype == "U8" && shape.size() == 2 + more.size() &&
                    std::equal(more.begin(), more.end(), shape.begin() + 2) && shape[0] >= 1 && shape[1] >= 1 &&
                    shape[0] <= kMaxSide && shape[1] <= kMaxSide;
  if (!fits) throw SafetensorsError(std::string(name) + " has another dtype or shape");
  return {std::string(bytes), static_cast<int>(shape[0]), static_cast<int>(shape[1])};
}

SelfTest parse_self_test(std::string_view content) {
  const Safetensors read = read_safetensors(content);
  SelfTest test{plane(read, "image", {3}),
                plane(read, "support_image", {3}),
                plane(read, "support_mask", {}),
                plane(read, "labels", {}),
                {},
                {}};
  const auto logits = read.tensors.find("logits");
  if (logits == read.tensors.end() || logits->second.dtype != "F32" || read.tensors.size() != 5)
    throw SafetensorsError("its tensors are not those of a self-test");
  test.logits = floats(logits->second);
  test.logits_shape = logits->second.shape;
  return test;
}

}  // namespace

Bundle Bundle::open(const fs::path& folder, const std::vector<fs::path>& trusted) {
  const std::string bytes = manifest_bytes(folder);
  if (!trusted.empty()) check_signature(folder, bytes, trusted);
  check_signature_form(folder);  // no other file may hide under its name
  Bundle bundle(folder, parse_manifest((folder / kManifest).string(), bytes));
  check_files(folder, bundle.manifest_);
  return bundle;
}

std::string Bundle::read(const FileEntry& entry) const {
  const fs::path path = folder_ / entry.name;
  std::string content = read_file(path, "Bundle file");
  if (sha256(content) != entry.sha256)
    throw input_error(
        path.string() +
        " has been changed: its SHA-256 is not the manifest's; copy the bundle again or export it again.");
  return content;
}

const FileEntry* Bundle::entry(const std::string& role, const std::string& engine, const std::string& precision) const {
  for (const auto& file : manifest_.files)
    if (file.role == role && file.engine == engine && file.precision == precision) return &file;
  return nullptr;
}

const FileEntry& Bundle::file(const std::string& name) const {
  return *std::find_if(manifest_.files.begin(), manifest_.files.end(),
                       [&](const FileEntry& entry) { return entry.name == name; });
}

const EngineEntry* Bundle::built(const std::string& engine, const std::string& precision) const {
  for (const auto& entry : manifest_.engines)
    if (entry.engine == engine && entry.precision == precision) return &entry;
  return nullptr;
}

std::vector<std::string> Bundle::precisions(const std::string& engine) const {
  std::vector<std::string> found;
  for (const auto& file : manifest_.files)
    if (file.role == "query" && file.engine == engine && entry("support", engine, file.precision) != nullptr &&
        built(engine, file.precision) == nullptr)
      found.push_back(file.precision);
  for (const auto& entry : manifest_.engines)
    if (entry.engine == engine) found.push_back(entry.precision);
  return found;
}

SelfTest Bundle::self_test() const {
  const FileEntry* found = entry("self-test");
  if (found == nullptr) throw input_error("Bundle " + folder_.string() + " has no self-test; export it again.");
  try {
    return parse_self_test(read(*found));
  } catch (const SafetensorsError& error) {
    throw input_error("The self-test of " + folder_.string() + " is damaged: " + error.what() +
                      "; export the bundle again.");
  }
}

void Bundle::check() const {
  constexpr std::string_view onnx = ".onnx";
  for (const auto& file : manifest_.files) {
    const std::string content = read(file);
    if (file.name.size() > onnx.size() && file.name.substr(file.name.size() - onnx.size()) == onnx)
      check_self_contained(content, file.name);
  }
  self_test();
}

}  // namespace ntre
