// Annotated images in, labels of every further image out: what Python's `runtime.segmenter` does, behind the C ABI.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "engine.hpp"
#include "letterbox.hpp"
#include "memory.hpp"
#include "ntre/image.hpp"

namespace ntre {

struct SupportShot {
  ImageView image;
  MaskView mask;
};

struct Class {
  std::string name;
  std::vector<SupportShot> shots;
};

struct EncodeOptions {
  bool allow_unseen = false;  // take a target that vanishes at the network's resolution
  bool leave_one_out = true;  // segment each of two or more shots with the others, for `shot_scores`
  bool calibrate = true;      // find the calibration of each of several classes on the supports of all
};

struct LoadOptions {
  std::string engine = "auto";
  std::string precision;  // empty takes the engine's best that this machine has
  EngineOptions engine_options;
  bool self_test = true;
  std::vector<fs::path> trusted;  // see `Bundle::open`
};

// One thread at a time; `clone` shares the engine's weights.
class Pipeline {
 public:
  // Throws an input error: no bundle, a file of it was changed, or no trusted key has signed it.
  // Throws an engine error: the engine or the precision cannot be had here, or fails the self-test.
  static Pipeline load(const fs::path& bundle, const LoadOptions& options);

  Pipeline clone() const;

  const ModelEntry& model() const { return model_; }
  const InputSpec& spec() const { return spec_; }
  const Engine& engine() const { return *engine_; }
  const std::string& reason() const { return reason_; }

  // Encodes classes that will be segmented together.
  // Throws an input error: no shots, a mask of another size than its image, an empty mask, or (unless allowed) one so
  // small that nothing is left of it. Throws an engine error: the engine failed.
  Memories encode(const std::vector<Class>& classes, const EncodeOptions& options);

  // Logits [N, 2, h, w] of an image, calibrated where all of several memories are, and the geometry for `label_map`.
  // Throws an input error: no image, no memory, or a memory of another model. Throws an engine error: it failed.
  std::vector<float> logits(const ImageView& image, const Memories& memories, Letterbox& box, bool calibrated = true);

  // Labels [height, width] of an image: 0 background, n the n-th class; `scores` may be null.
  // Throws as `logits`.
  void segment(const ImageView& image, const Memories& memories, std::uint8_t* labels, std::vector<double>* scores);

  // Throws an input error: the bundle has no self-test, or one that does not fit.
  // Throws an engine error: masks or logits are not those of the PyTorch network.
  void run_self_test(const Bundle& bundle);

 private:
  struct EncodedShot;

  Pipeline(std::unique_ptr<Engine> engine, InputSpec spec, ModelEntry model, std::string reason);

  EncodedShot encode_shot(const SupportShot& shot, const std::string& what, bool allow_unseen);
  std::shared_ptr<SupportMemory> join(const std::string& name, const std::vector<const EncodedShot*>& shots) const;
  std::vector<float> query(const std::vector<float>& pixels, const StackedSupports& supports);
  const StackedSupports& stacked(const Memories& memories);
  Letterbox box_of(const ImageView& image) const;

  std::unique_ptr<Engine> engine_;
  InputSpec spec_;
  ModelEntry model_;
  std::string reason_;
  // of the last query: the next frame of a camera asks for the same classes
  Memories stacked_of_;
  StackedSupports stacked_;
  std::vector<float> pixels_;
};

}  // namespace ntre
