#include "pipeline.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "errors.hpp"
#include "labels.hpp"
#include "masks.hpp"

namespace ntre {

namespace {

// what an engine must reach on the self-test to be trusted, as in Python: the share of equal pixels, and
// max |a - b| / max |b| of the logits
std::pair<double, double> demanded(const std::string& precision) {
  if (precision == "fp32") return {0.999, 1e-2};
  if (precision == "int8" || precision == "fp8") return {0.9, 0.5};
  return {0.98, 0.1};
}

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

bool finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

// max |a - b| / max |b|; NaN where one holds NaN
double logits_error(const std::vector<float>& got, const std::vector<float>& wanted) {
  double off = 0, largest = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double difference = std::abs(double{got[i]} - double{wanted[i]});
    if (std::isnan(difference)) return std::numeric_limits<double>::quiet_NaN();
    off = std::max(off, difference);
    largest = std::max(largest, std::abs(double{wanted[i]}));
  }
  return off / std::max(largest, 1e-6);
}

}  // namespace

struct Pipeline::EncodedShot {
  std::vector<std::uint8_t> mask;  // of the image's own size: 1 on the target, 255 ignored
  std::vector<float> pixels;       // [3, S, S]
  std::vector<float> target;       // [S, S]
  Letterbox box;
  std::vector<float> prototype;
  Keys keys;
};

Pipeline::Pipeline(std::unique_ptr<Engine> engine, InputSpec spec, ModelEntry model, std::string reason)
    : engine_(std::move(engine)), spec_(spec), model_(std::move(model)), reason_(std::move(reason)) {
  pixels_.resize(3 * static_cast<std::size_t>(spec_.size) * static_cast<std::size_t>(spec_.size));
}

Pipeline Pipeline::load(const fs::path& folder, const LoadOptions& options) {
  const Bundle bundle = Bundle::open(folder, options.trusted);
  Choice choice = open_engine(bundle, options.engine, options.precision, options.engine_options);
  Pipeline pipeline(std::move(choice.engine), bundle.manifest().input, bundle.manifest().model, choice.reason);
  if (options.self_test) pipeline.run_self_test(bundle);
  return pipeline;
}

Pipeline Pipeline::clone() const { return Pipeline(engine_->clone(), spec_, model_, reason_); }

Pipeline::EncodedShot Pipeline::encode_shot(const SupportShot& shot, const std::string& what, bool allow_unseen) {
  try {
    check_pixels(shot.image.data, shot.image.width, shot.image.height, shot.image.stride, 3, "the image");
    check_pixels(shot.mask.data, shot.mask.width, shot.mask.height, shot.mask.stride, 1, "the mask");
  } catch (const Error& error) {
    throw input_error(what + ": " + error.what());
  }
  EncodedShot encoded{};
  try {
    encoded.mask = normalise_mask(shot.mask, "the mask");
  } catch (const Error& error) {
    throw input_error(what + ": " + error.what());
  }
  check_target(encoded.mask, shot.mask, shot.image, what);
  encoded.pixels.resize(pixels_.size());
  encoded.target.resize(pixels_.size() / 3);
  encoded.box = prepare_image(shot.image, spec_, encoded.pixels.data());
  prepare_mask(encoded.mask.data(), shot.mask.width, encoded.box, encoded.target.data());
  Engine::Encoded found = engine_->support(encoded.pixels, encoded.target);
  // a head may keep keys at another resolution than that of its logits
  if (found.prototype.size() != model_.prototype_channels || found.keys.empty() ||
      found.keys.size() % model_.key_channels != 0)
    throw engine_error("The support graph does not give what the manifest says; export the bundle again.");
  encoded.prototype = std::move(found.prototype);
  encoded.keys = compact_keys(found.keys, model_.key_channels);
  if (encoded.keys.count == 0 && !allow_unseen)
    throw input_error(what + ": the target is too small to be seen at the network's " + std::to_string(spec_.size) +
                      " pixels; crop the image around it.");
  return encoded;
}

std::shared_ptr<SupportMemory> Pipeline::join(const std::string& name,
                                              const std::vector<const EncodedShot*>& shots) const {
  auto memory = std::make_shared<SupportMemory>();
  memory->name = name;
  memory->model = model_.id;
  memory->prototype.assign(model_.prototype_channels, 0.0F);
  for (const EncodedShot* shot : shots) {
    for (std::size_t c = 0; c < memory->prototype.size(); ++c) memory->prototype[c] += shot->prototype[c];
    memory->keys.push_back(shot->keys);
  }
  for (float& value : memory->prototype) value /= static_cast<float>(shots.size());
  return memory;
}

Memories Pipeline::encode(const std::vector<Class>& classes, const EncodeOptions& options) {
  if (classes.empty()) throw input_error("No class was given; one with an image and a mask at least.");
  if (classes.size() > kMaxClasses)
    throw input_error(std::to_string(classes.size()) + " classes were given; a label map holds 1 to " +
                      std::to_string(kMaxClasses) + ".");
  std::vector<std::vector<EncodedShot>> encoded;
  for (const Class& own : classes) {
    if (own.shots.empty())
      throw input_error("No support was given for '" + own.name + "'; one image and mask at least.");
    encoded.emplace_back();
    for (std::size_t k = 0; k < own.shots.size(); ++k) {
      const std::string what = "Support " + std::to_string(k + 1) + " of '" + own.name + "'";
      encoded.back().push_back(encode_shot(own.shots[k], what, options.allow_unseen));
      const EncodedShot& shot = encoded.back().back();
      if (!finite(shot.prototype) || !finite(shot.keys.data))
        throw engine_error(engine_->name + " " + engine_->precision + " gave NaN or infinity for '" + own.name + "'.");
    }
  }

  // the shots of a class but one; the only one stays
  const auto without = [&](std::size_t d, std::size_t left_out) {
    std::vector<const EncodedShot*> shots;
    for (std::size_t k = 0; k < encoded[d].size(); ++k)
      if (k != left_out || encoded[d].size() == 1) shots.push_back(&encoded[d][k]);
    return shots;
  };
  constexpr std::size_t none = SIZE_MAX;
  std::vector<std::shared_ptr<SupportMemory>> memories;
  for (std::size_t d = 0; d < classes.size(); ++d) memories.push_back(join(classes[d].name, without(d, none)));

  std::vector<std::vector<double>> scores(classes.size());
  // logits of a shot, where its class is encoded without it if it has others; of all classes, or of its own alone
  const auto leave_out = [&](std::size_t d, std::size_t k, bool together) {
    const EncodedShot& shot = encoded[d][k];
    Memories present(memories.begin(), memories.end());
    present[d] = join(classes[d].name, without(d, k));
    if (!together) present = {present[d]};
    const auto found = query(shot.pixels, stack(present));
    if (options.leave_one_out && encoded[d].size() > 1) {
      const std::size_t own = 2 * model_.feature_height * model_.feature_width * (together ? d : 0);
      const Logits alone{found.data() + own, 1, static_cast<int>(model_.feature_height),
                         static_cast<int>(model_.feature_width)};
      std::vector<std::uint8_t> labels(shot.mask.size());
      label_map(alone, shot.box, labels.data());
      scores[d].push_back(mask_iou(labels, shot.mask));
    }
    return found;
  };

  if (options.calibrate && classes.size() > 1) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    std::vector<std::vector<double>> table(classes.size(), std::vector<double>(classes.size(), nan));
    for (std::size_t d = 0; d < classes.size(); ++d) {
      std::vector<double> sums(classes.size(), 0.0);
      std::size_t seen = 0;
      for (std::size_t k = 0; k < encoded[d].size(); ++k) {
        const auto means = response(leave_out(d, k, true), classes.size(), static_cast<int>(model_.feature_height),
                                    static_cast<int>(model_.feature_width), encoded[d][k].target, spec_.size);
        if (!std::all_of(means.begin(), means.end(), [](double mean) { return std::isfinite(mean); })) continue;
        for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += means[c];
        ++seen;
      }
      for (std::size_t c = 0; seen > 0 && c < sums.size(); ++c) table[c][d] = sums[c] / static_cast<double>(seen);
    }
    const auto found = fit(table);
    for (std::size_t d = 0; d < classes.size(); ++d) memories[d]->calibration = found[d];
  } else if (options.leave_one_out) {
    for (std::size_t d = 0; d < classes.size(); ++d)
      for (std::size_t k = 0; encoded[d].size() > 1 && k < encoded[d].size(); ++k) leave_out(d, k, false);
  }
  for (std::size_t d = 0; d < classes.size(); ++d)
    if (!scores[d].empty()) memories[d]->shot_scores = scores[d];
  return Memories(memories.begin(), memories.end());
}

const StackedSupports& Pipeline::stacked(const Memories& memories) {
  if (memories.empty()) throw input_error("No support memory was given; make one with `encode_support`.");
  if (memories == stacked_of_) return stacked_;
  if (memories.size() > kMaxClasses)
    throw input_error(std::to_string(memories.size()) + " classes were given; a label map holds 1 to " +
                      std::to_string(kMaxClasses) + ".");
  for (const auto& memory : memories)
    if (memory->model != model_.id || memory->prototype.size() != model_.prototype_channels ||
        memory->keys[0].depth != model_.key_channels)
      throw input_error("The support memory '" + memory->name +
                        "' was made by another model or input size; encode it again.");
  stacked_of_.clear();  // what is there is of no memories, should there be no room for the next
  stacked_ = stack(memories);
  stacked_of_ = memories;
  return stacked_;
}

std::vector<float> Pipeline::query(const std::vector<float>& pixels, const StackedSupports& supports) {
  auto found = engine_->query(pixels, supports);
  if (found.size() != supports.classes * 2 * model_.feature_height * model_.feature_width)
    throw engine_error("The query graph does not give what the manifest says; export the bundle again.");
  if (!finite(found))
    throw engine_error(engine_->name + " " + engine_->precision + " gave NaN or infinity; run `ntre bench`.");
  return found;
}

std::vector<float> Pipeline::logits(const ImageView& image, const Memories& memories, Letterbox& box, bool calibrated) {
  check_pixels(image.data, image.width, image.height, image.stride, 3, "The image");
  const StackedSupports& supports = stacked(memories);
  box = prepare_image(image, spec_, pixels_.data());
  auto found = query(pixels_, supports);
  if (calibrated) calibrate(found, calibrations(memories));
  return found;
}

void Pipeline::segment(const ImageView& image, const Memories& memories, std::uint8_t* labels,
                       std::vector<double>* scores) {
  Letterbox box{};
  const auto values = logits(image, memories, box);
  const Logits found{values.data(), static_cast<int>(memories.size()), static_cast<int>(model_.feature_height),
                     static_cast<int>(model_.feature_width)};
  label_map(found, box, labels);
  if (scores != nullptr) *scores = class_scores(labels, found, box);
}

void Pipeline::run_self_test(const Bundle& bundle) {
  const SelfTest test = bundle.self_test();
  const auto view = [](const SelfTest::Plane& plane, int channels) {
    const auto* data = reinterpret_cast<const std::uint8_t*>(plane.bytes.data());
    return ImageView{data, plane.width, plane.height, std::ptrdiff_t{plane.width} * channels};
  };
  const ImageView mask = view(test.support_mask, 1), image = view(test.image, 3);
  const SupportShot shot{view(test.support_image, 3), {mask.data, mask.width, mask.height, mask.stride}};
  const Memories memories = encode({{"self-test", {shot}}}, {});
  const bool fits = test.labels.width == image.width && test.labels.height == image.height &&
                    test.logits_shape == std::vector<std::uint64_t>{2, model_.feature_height, model_.feature_width};
  if (!fits)
    throw input_error("The self-test of " + bundle.folder().string() +
                      " does not fit its graphs; export the bundle again.");
  Letterbox box{};
  const auto found = logits(image, memories, box);
  std::vector<std::uint8_t> labels(test.labels.bytes.size());
  label_map({found.data(), 1, static_cast<int>(model_.feature_height), static_cast<int>(model_.feature_width)}, box,
            labels.data());
  std::size_t equal = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) equal += labels[i] == static_cast<std::uint8_t>(test.labels.bytes[i]);
  const double pixels = static_cast<double>(equal) / static_cast<double>(labels.size());
  const double off = logits_error(found, test.logits);
  const auto [least_pixels, most_logits] = demanded(engine_->precision);
  // written so that NaN fails
  if (!(pixels >= least_pixels && off <= most_logits))
    throw engine_error(engine_->name + " " + engine_->precision +
                       " fails the bundle's self-test: " + formatted("%.2f%%", 100 * pixels) +
                       " of the pixels are right (" + formatted("%.1f%%", 100 * least_pixels) +
                       " demanded) and logits are off by " + formatted("%.1e", off) + " (" +
                       formatted("%.0e", most_logits) + " allowed); do not use it on this machine.");
}

}  // namespace ntre
