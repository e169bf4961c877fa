// A conformance kit on disk (docs/conformance.md), every file of which is checked before it is used.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "files.hpp"
#include "json.hpp"
#include "memory.hpp"
#include "pictures.hpp"
#include "safetensors.hpp"

namespace ntre {

// The kit itself cannot be used, which says nothing about the runtime.
struct KitError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A file of tensors; they point into `bytes`.
struct TensorFile {
  std::string bytes;
  Safetensors read;

  // Throws KitError: it is not there, or of another dtype.
  const TensorView& tensor(const std::string& name, const char* dtype) const;
};

// Throws KitError: `key` is not there.
const Json& member(const Json& object, const std::string& key);

class Kit {
 public:
  // Throws KitError: no kit, or one of another version.
  explicit Kit(fs::path folder);

  const Json& content() const { return content_; }
  const std::string& sha256() const { return sha256_; }

  // Each throws KitError: the kit does not list it, or it was changed.
  fs::path file(const std::string& path);
  std::string bytes(const std::string& path);
  std::unique_ptr<TensorFile> tensors(const std::string& path);
  Picture image(const std::string& name) { return repeated("images", name, 3); }
  Picture mask(const std::string& name) { return repeated("masks", name, 1); }
  Picture labels(const std::string& path);

 private:
  Picture repeated(const char* list, const std::string& name, int channels);

  fs::path folder_;
  Json content_;
  std::string sha256_;
  std::map<std::string, std::string> seen_;
};

}  // namespace ntre
