// An engine that needs no library and answers the same on every machine: mean colours in place of a network. The tests
// run everything around an engine with it, under sanitizers that would stumble over a real engine's threads, and on
// processors that no engine is installed for. It reads a bundle's ONNX files and their sizes, and never passes the
// bundle's self-test.
#include <algorithm>
#include <cmath>
#include <utility>

#include "engine.hpp"
#include "errors.hpp"
#include "onnxfile.hpp"

namespace ntre {

namespace {

constexpr char kDouble[] = "double";
// a cosine above it is the class
constexpr float kAlike = 0.98F;
// numbers of a key that are not zero: an emulated processor takes its time
constexpr std::size_t kUsed = 12;

struct Sizes {
  std::size_t input, channels, depth, height, width;
};

class Double final : public Engine {
 public:
  Double(const std::string& its_precision, Sizes sizes) : Engine(kDouble, its_precision), sizes_(sizes) {}

  Encoded support(const std::vector<float>& image, const std::vector<float>& mask) override {
    const std::size_t places = sizes_.height * sizes_.width;
    Encoded found{std::vector<float>(sizes_.channels), std::vector<float>(sizes_.depth * places)};
    const std::vector<float> keys = features(image);
    std::vector<float> target(places);
    each_pixel([&](std::size_t pixel, std::size_t place) { target[place] += mask[pixel]; });
    for (std::size_t d = 0; d < sizes_.depth; ++d)
      for (std::size_t m = 0; m < places; ++m)
        if (target[m] > 0) found.keys[d * places + m] = keys[m * sizes_.depth + d];
    for (std::size_t c = 0; c < sizes_.channels; ++c) found.prototype[c] = keys[c % keys.size()];
    return found;
  }

  std::vector<float> query(const std::vector<float>& image, const StackedSupports& supports) override {
    const std::size_t places = sizes_.height * sizes_.width;
    const std::vector<float> found = features(image);
    std::vector<float> logits(supports.classes * 2 * places);
    for (std::size_t n = 0; n < supports.classes; ++n) {
      for (std::size_t m = 0; m < places; ++m) {
        float best = 0;
        for (std::size_t i = 0; i < supports.shots * supports.longest; ++i) {
          const std::int32_t chunk = supports.chunks[n * supports.shots * supports.longest + i];
          if (chunk < 0) continue;
          const float* keys = supports.keys.data() + static_cast<std::size_t>(chunk) * kChunk * supports.depth;
          for (std::size_t k = 0; k < kChunk; ++k, keys += supports.depth) {
            float cosine = 0;
            for (std::size_t d = 0; d < used(); ++d) cosine += keys[d] * found[m * sizes_.depth + d];
            best = std::max(best, cosine);
          }
        }
        logits[(2 * n + 1) * places + m] = 10 * (best - kAlike);
      }
    }
    return logits;
  }

  std::unique_ptr<Engine> clone() const override { return std::make_unique<Double>(precision, sizes_); }

 private:
  std::size_t used() const { return std::min(sizes_.depth, kUsed); }

  template <typename Take>
  void each_pixel(const Take& take) const {
    for (std::size_t y = 0; y < sizes_.input; ++y)
      for (std::size_t x = 0; x < sizes_.input; ++x)
        take(y * sizes_.input + x, y * sizes_.height / sizes_.input * sizes_.width + x * sizes_.width / sizes_.input);
  }

  // Of each place its mean colour, mixed to `depth` numbers of norm 1.
  std::vector<float> features(const std::vector<float>& image) const {
    const std::size_t places = sizes_.height * sizes_.width, plane = sizes_.input * sizes_.input;
    std::vector<float> sums(places * 3), mixed(places * sizes_.depth);
    each_pixel([&](std::size_t pixel, std::size_t place) {
      for (std::size_t c = 0; c < 3; ++c) sums[3 * place + c] += image[c * plane + pixel];
    });
    const auto pixels = static_cast<float>(plane) / static_cast<float>(places);
    for (std::size_t m = 0; m < places; ++m) {
      float* out = mixed.data() + m * sizes_.depth;
      float norm = 0;
      for (std::size_t d = 0; d < used(); ++d) {
        const auto turn = static_cast<float>(d / 3) / static_cast<float>(kUsed);
        out[d] = std::abs(sums[3 * m + d % 3] / pixels + turn - 0.5F);
        norm += out[d] * out[d];
      }
      for (std::size_t d = 0; d < used(); ++d) out[d] /= std::sqrt(std::max(norm, 1e-12F));
    }
    return mixed;
  }

  Sizes sizes_;
};

std::unique_ptr<Engine> open_double(const Bundle& bundle, const std::string& precision, const EngineOptions&) {
  for (const char* role : {"support", "query"}) {
    const FileEntry* entry = bundle.entry(role, "onnx", precision);
    if (entry == nullptr) throw engine_error("the bundle has no graphs in " + precision + ".");
    check_self_contained(bundle.read(*entry), entry->name);
  }
  const Manifest& manifest = bundle.manifest();
  return std::make_unique<Double>(
      precision, Sizes{static_cast<std::size_t>(manifest.input.size), manifest.model.prototype_channels,
                       manifest.model.key_channels, manifest.model.feature_height, manifest.model.feature_width});
}

std::string nothing(const std::string&) { return ""; }

}  // namespace

EngineKind double_kind() { return {kDouble, "onnx", {"fp32", "fp16"}, nothing, nothing, open_double}; }

}  // namespace ntre
