#pragma once

#include <map>
#include <string>

#include "kit.hpp"
#include "measures.hpp"
#include "pipeline.hpp"

namespace ntre {

using Measures = std::map<std::string, Measure>;

// Runs the cases of a kit, of which each gives its measures or throws the runtime's own error.
class Cases {
 public:
  Cases(Kit& kit, Pipeline& pipeline, fs::path bundle, int threads)
      : kit_(kit), pipeline_(pipeline), bundle_(std::move(bundle)), threads_(threads) {}

  // Throws KitError: the kit is damaged. Throws Error: the runtime's.
  Measures run(const Json& given);

 private:
  Measures letterbox(const Json& given);
  Measures encode(const Json& given);
  Measures stacked(const Json& given);
  Measures segment(const Json& given);
  Measures memory(const Json& given);
  Measures bundle(const Json& given);
  Memories loaded(const Json& paths);

  Kit& kit_;
  Pipeline& pipeline_;
  fs::path bundle_;
  int threads_;
};

// A copy of a bundle with the operations of a case done to it, in a folder of its own that goes with this.
class PatchedBundle {
 public:
  PatchedBundle(Kit& kit, const fs::path& bundle, const Json& patch);
  ~PatchedBundle();
  PatchedBundle(const PatchedBundle&) = delete;
  PatchedBundle& operator=(const PatchedBundle&) = delete;

  const fs::path& folder() const { return folder_; }

 private:
  void apply(Kit& kit, const Json& operation);

  fs::path root_;
  fs::path folder_;
};

}  // namespace ntre
