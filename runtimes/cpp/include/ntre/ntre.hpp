// Few-shot segmentation in C++17, on top of the C ABI: this header is compiled with your program, so that the library
// may come from another compiler.  What can fail throws `ntre::Error`; ntre.h tells of threads and lifetimes.
//
//   ntre::Segmenter segmenter("cutlery.ntre");
//   ntre::Memory fork = segmenter.encode("fork", {{image, mask}});
//   ntre::LabelMap map = segmenter.segment(photo, {fork});
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ntre/error.hpp"
#include "ntre/image.hpp"
#include "ntre/ntre.h"

namespace ntre {

namespace detail {

inline void check(ntre_status status) {
  if (status == NTRE_OK) return;
  const bool known = status >= NTRE_GATE && status <= NTRE_INTERNAL;
  throw Error(known ? static_cast<ErrorCode>(status) : ErrorCode::internal, ntre_last_error());
}

inline ntre_image c_image(const ImageView& image) { return {image.data, image.width, image.height, image.stride}; }

struct Free {
  void operator()(ntre_segmenter* segmenter) const { ntre_segmenter_free(segmenter); }
  void operator()(const ntre_memory* memory) const { ntre_memory_free(const_cast<ntre_memory*>(memory)); }
};

inline void warn(const char* text, void* user) {
  try {
    (*static_cast<const std::function<void(const std::string&)>*>(user))(text);
  } catch (...) {
    // nothing may pass through the library; a warning stops nothing
  }
}

}  // namespace detail

// Hears one line of what the user should know and what stops nothing.
using Warning = std::function<void(const std::string&)>;

// What the network keeps of one class.  A value: copies share what never changes, in any number of threads.
class Memory {
 public:
  // Takes over a handle of the C ABI.
  explicit Memory(ntre_memory* handle) : handle_(handle, detail::Free()) {}

  // Reads a file that `save`, Python or a browser wrote.
  static Memory load(const std::string& path, Warning warning = {}) {
    ntre_memory* out = nullptr;
    detail::check(ntre_memory_load(path.c_str(), warning ? detail::warn : nullptr, &warning, &out));
    return Memory(out);
  }

  static Memory from_bytes(const std::vector<std::uint8_t>& bytes, Warning warning = {}) {
    ntre_memory* out = nullptr;
    // an empty vector has no address, and what is wrong with it is not that
    const std::uint8_t* data = bytes.empty() ? reinterpret_cast<const std::uint8_t*>("") : bytes.data();
    detail::check(ntre_memory_from_bytes(data, bytes.size(), warning ? detail::warn : nullptr, &warning, &out));
    return Memory(out);
  }

  void save(const std::string& path) const { detail::check(ntre_memory_save(get(), path.c_str())); }

  std::vector<std::uint8_t> to_bytes() const {
    std::size_t size = 0;
    detail::check(ntre_memory_to_bytes(get(), nullptr, &size));
    std::vector<std::uint8_t> bytes(size);
    detail::check(ntre_memory_to_bytes(get(), bytes.data(), &size));
    return bytes;
  }

  Memory uncalibrated() const {
    ntre_memory* out = nullptr;
    detail::check(ntre_memory_uncalibrated(get(), &out));
    return Memory(out);
  }

  std::string name() const { return ntre_memory_name(get()); }
  std::string model() const { return ntre_memory_model(get()); }
  std::size_t shots() const { return ntre_memory_shots(get()); }

  // Of each shot the IoU of its mask with the one that the others give; empty where that was not computed.
  std::vector<double> shot_scores() const {
    std::vector<double> scores;
    for (std::size_t k = 0; k < shots(); ++k)
      if (const double score = ntre_memory_shot_score(get(), k); score >= 0) scores.push_back(score);
    return scores;
  }

  const ntre_memory* get() const { return handle_.get(); }

 private:
  std::shared_ptr<const ntre_memory> handle_;
};

// One annotated image.
struct Shot {
  ImageView image;
  MaskView mask;
};

// Labels of one image, row by row: 0 background, n the n-th class.
struct LabelMap {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> labels;
  std::vector<double> scores;  // of each class, in [0, 1]; empty unless asked for

  std::uint8_t at(int x, int y) const {
    return labels[static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)];
  }
};

// How a bundle is loaded; ntre_options has the same fields.
struct Options {
  std::string engine = "auto";
  std::string precision;  // empty takes the engine's best that this machine has
  int threads = 0;
  bool self_test = true;
  std::string hint = "latency";
  std::string cache;
  std::vector<std::string> trusted;
};

// Checks a bundle without opening an engine; see `ntre_check`.
inline void check(const std::string& bundle, const std::vector<std::string>& trusted = {}) {
  std::vector<const char*> keys;
  for (const auto& key : trusted) keys.push_back(key.c_str());
  detail::check(ntre_check(bundle.c_str(), keys.data(), keys.size()));
}

// A bundle with an engine; one thread at a time, `clone` for another.
class Segmenter {
 public:
  explicit Segmenter(const std::string& bundle, const Options& options = {}) {
    std::vector<const char*> trusted;
    for (const auto& key : options.trusted) trusted.push_back(key.c_str());
    ntre_options given = NTRE_OPTIONS;
    given.engine = options.engine.c_str();
    given.precision = options.precision.empty() ? nullptr : options.precision.c_str();
    given.threads = options.threads;
    given.skip_self_test = !options.self_test;
    given.hint = options.hint.c_str();
    given.cache = options.cache.empty() ? nullptr : options.cache.c_str();
    given.trusted = trusted.data();
    given.trusted_count = trusted.size();
    ntre_segmenter* out = nullptr;
    detail::check(ntre_load(bundle.c_str(), &given, &out));
    handle_.reset(out);
  }

  Segmenter clone() const {
    ntre_segmenter* out = nullptr;
    detail::check(ntre_segmenter_clone(get(), &out));
    return Segmenter(out);
  }

  // The memories of classes that will be segmented together, in their order; `flags` as in ntre.h.
  std::vector<Memory> encode(const std::vector<std::pair<std::string, std::vector<Shot>>>& classes,
                             std::uint32_t flags = 0) {
    std::vector<std::vector<ntre_shot>> shots;
    std::vector<ntre_class> given;
    for (const auto& [name, own] : classes) {
      shots.emplace_back();
      for (const Shot& shot : own)
        shots.back().push_back(
            {detail::c_image(shot.image), {shot.mask.data, shot.mask.width, shot.mask.height, shot.mask.stride}});
      given.push_back({name.c_str(), shots.back().data(), own.size()});
    }
    std::vector<ntre_memory*> out(classes.size());
    detail::check(ntre_encode(get(), given.data(), given.size(), flags, out.data()));
    std::vector<Memory> memories;
    memories.reserve(out.size());
    for (ntre_memory* memory : out) memories.emplace_back(memory);
    return memories;
  }

  // The memory of one class.
  Memory encode(const std::string& name, const std::vector<Shot>& shots, std::uint32_t flags = 0) {
    return encode({{name, shots}}, flags).front();
  }

  LabelMap segment(const ImageView& image, const std::vector<Memory>& memories, bool scores = false) {
    std::vector<const ntre_memory*> given;
    for (const Memory& memory : memories) given.push_back(memory.get());
    LabelMap map{image.width, image.height, {}, std::vector<double>(scores ? memories.size() : 0)};
    // sides that cannot be are the library's to refuse; it never writes then
    const bool fits = image.width > 0 && image.height > 0;
    map.labels.resize(fits ? static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height) : 1);
    const ntre_image pixels = detail::c_image(image);
    detail::check(ntre_segment(get(), &pixels, given.data(), given.size(), map.labels.data(),
                               scores ? map.scores.data() : nullptr));
    return map;
  }

  std::string engine() const { return ntre_segmenter_engine(get()); }
  std::string precision() const { return ntre_segmenter_precision(get()); }
  std::string reason() const { return ntre_segmenter_reason(get()); }
  std::string model() const { return ntre_segmenter_model(get()); }

  ntre_segmenter* get() const { return handle_.get(); }

 private:
  explicit Segmenter(ntre_segmenter* handle) : handle_(handle) {}

  std::unique_ptr<ntre_segmenter, detail::Free> handle_;
};

}  // namespace ntre
