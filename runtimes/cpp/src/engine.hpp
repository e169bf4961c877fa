// Engines run a bundle's two graphs; one file each in `engines/`, all behind the three calls of `Engine`.
//
// To add one: write `engines/NAME.cpp` with a class derived from `Engine` and its `EngineKind`, declare the kind below,
// add it to the table of `engines.cpp` (best first), and give it an option in CMakeLists.txt that defines NTRE_NAME.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "stacked.hpp"

namespace ntre {

// How an engine is opened; what an engine does not know, it leaves.
struct EngineOptions {
  int threads = 0;               // of the CPU; 0 leaves it to the engine
  std::string hint = "latency";  // `throughput` for several clones at once
  // folder for compiled graphs, for a faster next load; empty keeps none. Nothing but the self-test checks what lies in
  // it: nobody but its user may write there
  fs::path cache;
};

// Something that computes the two deploy graphs.  One thread at a time; `clone` for another.
class Engine {
 public:
  struct Encoded {
    std::vector<float> prototype;  // [C]
    std::vector<float> keys;       // [D, h * w], zero outside the mask
  };

  virtual ~Engine() = default;

  // Image [3, S, S] and mask [S, S] of 0 and 1. Throws an engine error.
  virtual Encoded support(const std::vector<float>& image, const std::vector<float>& mask) = 0;

  // Image [3, S, S] against N classes -> logits [N, 2, h, w]. Throws an engine error.
  virtual std::vector<float> query(const std::vector<float>& image, const StackedSupports& supports) = 0;

  // An engine for another thread that shares this one's weights.
  virtual std::unique_ptr<Engine> clone() const = 0;

  const std::string name;
  const std::string precision;

 protected:
  Engine(std::string its_name, std::string its_precision)
      : name(std::move(its_name)), precision(std::move(its_precision)) {}
};

// What the choice of an engine has to know of one before it is opened.
struct EngineKind {
  std::string name;
  std::string files;                                                // engine name of its files in the manifest
  std::vector<std::string> precisions;                              // best first
  std::function<std::string(const std::string& precision)> lacks;   // why this machine cannot run one; empty if it can
  std::function<std::string(const std::string& precision)> unwise;  // why another one is better here
  // Throws an input error: a file was changed. Throws an engine error: the precision cannot be had here.
  std::function<std::unique_ptr<Engine>(const Bundle&, const std::string& precision, const EngineOptions&)> open;
};

#ifdef NTRE_OPENVINO
EngineKind openvino_kind();
#endif
#ifdef NTRE_DOUBLE
EngineKind double_kind();
#endif

// An engine that was opened, and why it and not a better one.
struct Choice {
  std::unique_ptr<Engine> engine;
  std::string reason;
};

// Names of the engines that this library was built with, best first.
std::vector<std::string> engine_names();

// Opens an engine of a bundle: `auto` takes the best that runs, any other name gets that engine or an error, and so
// does a precision that is not empty. Throws an input error: an unknown name or hint, or a precision that the bundle
// does not hold. Throws an engine error: no engine can run, or the one asked for cannot.
Choice open_engine(const Bundle& bundle, const std::string& name, const std::string& precision,
                   const EngineOptions& options);

}  // namespace ntre
