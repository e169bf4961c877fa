// A bundle on disk: `NAME.ntre/` with a manifest, graphs and a self-test; nothing in it is trusted.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "files.hpp"
#include "manifest.hpp"

namespace ntre {

// A small episode and what it must give: images [height, width, 3], masks and labels [height, width] of 0 and 1,
// logits [2, h, w] of the PyTorch network in fp32.
struct SelfTest {
  struct Plane {
    std::string bytes;
    int height = 0;
    int width = 0;
  };
  Plane image, support_image, support_mask, labels;
  std::vector<float> logits;
  std::vector<std::uint64_t> logits_shape;
};

// An opened bundle: its files are there, listed and of the listed sizes; contents are hashed when read.
class Bundle {
 public:
  // `trusted`: PEM files of public Ed25519 keys, by one of which the manifest must be signed; empty demands nothing.
  // Throws an input error: no bundle, no signature by a trusted key, a bad manifest, a file that is missing, not listed
  // or of another size.
  static Bundle open(const fs::path& folder, const std::vector<fs::path>& trusted = {});

  const fs::path& folder() const { return folder_; }
  const Manifest& manifest() const { return manifest_; }

  // The content of one file, checked against its SHA-256 before anything looks into it.
  // Throws an input error: the content has changed, or cannot be read.
  std::string read(const FileEntry& entry) const;

  // The file of that role, engine and precision; null where there is none.
  const FileEntry* entry(const std::string& role, const std::string& engine = "",
                         const std::string& precision = "") const;

  // The file of that name, which a checked manifest lists.
  const FileEntry& file(const std::string& name) const;

  // The engine of that name and precision that compiles graphs of the bundle; null without.
  const EngineEntry* built(const std::string& engine, const std::string& precision) const;

  // Precisions in which both graphs of an engine are there, in the manifest's order.
  std::vector<std::string> precisions(const std::string& engine) const;

  // Throws an input error: there is none, or it is damaged.
  SelfTest self_test() const;

  // Reads every file: their SHA-256, that ONNX files refer to no others, and that there is a self-test.
  // Throws an input error: as `read`, `check_self_contained` and `self_test`.
  void check() const;

 private:
  Bundle(fs::path folder, Manifest manifest) : folder_(std::move(folder)), manifest_(std::move(manifest)) {}

  fs::path folder_;
  Manifest manifest_;
};

}  // namespace ntre
