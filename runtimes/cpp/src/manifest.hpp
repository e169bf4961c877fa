// The manifest of a bundle, read as the hostile file that it may be; as Python's `runtime.manifest`.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "inputspec.hpp"

namespace ntre {

constexpr char kManifest[] = "manifest.json";
constexpr char kSignature[] = "manifest.sig";
constexpr std::uint64_t kMaxManifestBytes = 4 << 20;

// One file of the bundle; `name` is a plain file name inside its folder.
struct FileEntry {
  std::string name;
  std::string role;  // support, query, self-test or reference
  std::string engine;
  std::string precision;  // found in the file that was built
  std::uint64_t size = 0;
  std::string sha256;
};

// An engine that compiles graphs of the bundle by itself when it loads; `support` and `query` name files.
struct EngineEntry {
  std::string engine;
  std::string precision;
  std::string support;
  std::string query;
};

// The network behind the graphs.
struct ModelEntry {
  std::string id;  // a support memory belongs to one
  std::size_t prototype_channels = 0;
  std::size_t key_channels = 0;
  std::size_t feature_height = 0;
  std::size_t feature_width = 0;
};

struct Manifest {
  std::string name;
  ModelEntry model;
  InputSpec input;
  std::vector<FileEntry> files;
  std::vector<EngineEntry> engines;
};

// The manifest in the bytes of the file that `where` names.
// Throws an input error: another schema version, a missing or wrong entry, or a name that leaves the folder.
Manifest parse_manifest(const std::string& where, std::string_view bytes);

}  // namespace ntre
