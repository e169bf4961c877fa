#include "cases.hpp"

#include <array>

#include "errors.hpp"
#include "labels.hpp"
#include "stacked.hpp"

namespace ntre {

namespace {

std::string text(const Json& value) {
  if (!value.is_string()) throw KitError("The kit holds " + shown(value) + " where a text is expected.");
  return value.get<std::string>();
}

const Json& list(const Json& value) {
  if (!value.is_array()) throw KitError("The kit holds " + shown(value) + " where a list is expected.");
  return value;
}

struct ByteView {
  std::string_view bytes;
  std::size_t size() const { return bytes.size(); }
  std::uint8_t operator[](std::size_t i) const { return static_cast<std::uint8_t>(bytes[i]); }
};

bool has_shape(const TensorView& tensor, const std::vector<std::uint64_t>& shape) { return tensor.shape == shape; }

Measure calibrations_apart(const std::optional<Calibration>& found, const std::optional<Calibration>& expected) {
  if (!found || !expected) return found.has_value() == expected.has_value() ? Measure(0.0) : std::nullopt;
  return largest(std::array<double, 2>{found->offset, found->scale},
                 std::array<double, 2>{expected->offset, expected->scale});
}

Measure scores_apart(const SupportMemory& found, const SupportMemory& expected) {
  if (!found.shot_scores || !expected.shot_scores)
    return found.shot_scores.has_value() == expected.shot_scores.has_value() ? Measure(0.0) : std::nullopt;
  return largest(*found.shot_scores, *expected.shot_scores);
}

Measure keys_apart(const SupportMemory& found, const SupportMemory& expected) {
  if (found.keys.size() != expected.keys.size()) return std::nullopt;
  Measure most = 0.0;
  for (std::size_t k = 0; k < found.keys.size(); ++k) {
    if (found.keys[k].depth != expected.keys[k].depth || found.keys[k].count != expected.keys[k].count)
      return std::nullopt;
    most = worst(most, largest(found.keys[k].data, expected.keys[k].data));
  }
  return most;
}

Json fields_of(const SupportMemory& memory) {
  Json fields = {{"name", memory.name},
                 {"model", memory.model},
                 {"shots", memory.keys.size()},
                 {"calibration", nullptr},
                 {"shot_scores", nullptr}};
  if (memory.calibration)
    fields["calibration"] = {{"offset", memory.calibration->offset}, {"scale", memory.calibration->scale}};
  if (memory.shot_scores) fields["shot_scores"] = *memory.shot_scores;
  return fields;
}

Measure arrays_apart(const SupportMemory& memory, const TensorFile& expected) {
  if (expected.read.tensors.size() != memory.keys.size() + 1) return std::nullopt;
  const auto& prototype = expected.tensor("prototype", "F32");
  if (!has_shape(prototype, {memory.prototype.size()})) return std::nullopt;
  Measure most = largest(memory.prototype, floats(prototype));
  for (std::size_t k = 0; k < memory.keys.size(); ++k) {
    const auto& wanted = expected.tensor("keys." + std::to_string(k), "F32");
    if (!has_shape(wanted, {memory.keys[k].depth, memory.keys[k].count})) return std::nullopt;
    most = worst(most, largest(memory.keys[k].data, floats(wanted)));
  }
  return most;
}

}  // namespace

Measures Cases::run(const Json& given) {
  const std::string kind = text(member(given, "kind"));
  if (kind == "letterbox") return letterbox(given);
  if (kind == "encode") return encode(given);
  if (kind == "stack") return stacked(given);
  if (kind == "segment") return segment(given);
  if (kind == "memory") return memory(given);
  if (kind == "bundle") return bundle(given);
  throw KitError("A case is of the kind '" + kind + "', which this version of ntre does not know.");
}

Memories Cases::loaded(const Json& paths) {
  std::map<std::string, std::shared_ptr<const SupportMemory>> known;
  Memories found;
  for (const Json& path : list(paths)) {
    auto& memory = known[text(path)];
    if (!memory) memory = std::make_shared<const SupportMemory>(SupportMemory::load(kit_.file(text(path))));
    found.push_back(memory);
  }
  return found;
}

Measures Cases::letterbox(const Json& given) {
  const Picture image = kit_.image(text(member(given, "image")));
  const auto expected = kit_.tensors(text(member(given, "expected")));
  const auto size = static_cast<std::size_t>(pipeline_.spec().size), plane = size * size;
  std::vector<float> found(3 * plane);
  const Letterbox box = prepare_image(image.image(), pipeline_.spec(), found.data());
  const auto wanted = floats(expected->tensor("input", "F32"));
  Measure off, differing;
  if (wanted.size() == found.size()) {
    std::size_t count = 0;
    off = 0.0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double levels = std::abs(double{found[i]} - double{wanted[i]}) * pipeline_.spec().std[i / plane];
      count += !(levels <= 0.01);
      off = worst(off, levels);
    }
    differing = static_cast<double>(count) / static_cast<double>(found.size());
  }
  Measures measures{{"input", off}, {"input-share", differing}};
  const Json& inner = list(member(given, "box"));
  if (inner.size() != 2 || !inner[0].is_number() || !inner[1].is_number()) throw KitError("A box cannot be.");
  measures["box"] = largest(std::array<int, 2>{box.inner_height, box.inner_width},
                            std::array<double, 2>{inner[0].get<double>(), inner[1].get<double>()});
  if (given.contains("mask")) {
    const Picture mask = kit_.mask(text(given["mask"]));
    std::vector<float> target(plane);
    prepare_mask(mask.bytes.data(), mask.width, box, target.data());
    measures["target"] = share(target, ByteView{expected->tensor("target", "U8").bytes});
  }
  return measures;
}

Measures Cases::encode(const Json& given) {
  std::vector<Picture> pictures;
  for (const Json& own : list(member(given, "classes")))
    for (const Json& shot : list(member(own, "shots"))) {
      pictures.push_back(kit_.image(text(member(shot, "image"))));
      pictures.push_back(kit_.mask(text(member(shot, "mask"))));
    }
  std::vector<Class> classes;
  std::size_t next = 0;
  for (const Json& own : given["classes"]) {
    classes.push_back({text(member(own, "name")), {}});
    for (std::size_t k = 0; k < own["shots"].size(); ++k, next += 2)
      classes.back().shots.push_back({pictures[next].image(), pictures[next + 1].mask()});
  }
  EncodeOptions options;
  options.calibrate = member(given, "calibrate") == true;
  const Memories found = pipeline_.encode(classes, options);
  const Memories expected = loaded(member(given, "memories"));
  if (found.size() != expected.size()) return {};
  Measures measures{{"prototype", 0.0}, {"keys", 0.0}, {"calibration", 0.0}, {"shot-scores", 0.0}};
  for (std::size_t n = 0; n < found.size(); ++n) {
    const SupportMemory &mine = *found[n], &wanted = *expected[n];
    const auto take = [&](const char* step, const Measure& measure) {
      measures[step] = worst(measures[step], measure);
    };
    take("prototype", relative(mine.prototype, wanted.prototype));
    take("keys", keys_apart(mine, wanted));
    take("calibration", calibrations_apart(mine.calibration, wanted.calibration));
    take("shot-scores", scores_apart(mine, wanted));
  }
  return measures;
}

Measures Cases::stacked(const Json& given) {
  const StackedSupports found = stack(loaded(member(given, "memories")));
  const auto expected = kit_.tensors(text(member(given, "expected")));
  const auto& prototypes = expected->tensor("prototypes", "F32");
  const auto& keys = expected->tensor("keys", "F32");
  const auto& chunks = expected->tensor("chunks", "I32");
  if (!has_shape(prototypes, {found.classes, found.channels}) || !has_shape(keys, {found.count, kChunk, found.depth}) ||
      !has_shape(chunks, {found.classes, found.shots, found.longest}))
    return {{"stack", std::nullopt}};
  std::vector<std::int32_t> table;
  for (std::size_t at = 0; at < chunks.bytes.size(); at += 4) {
    std::uint32_t value = 0;
    for (std::size_t i = 4; i-- > 0;) value = value << 8 | ByteView{chunks.bytes}[at + i];
    table.push_back(static_cast<std::int32_t>(value));
  }
  Measure most = largest(found.prototypes, floats(prototypes));
  most = worst(most, largest(found.keys, floats(keys)));
  return {{"stack", worst(most, largest(found.chunks, table))}};
}

Measures Cases::segment(const Json& given) {
  const Picture image = kit_.image(text(member(given, "image")));
  const Memories memories = loaded(member(given, "memories"));
  std::vector<std::uint8_t> labels(static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.height));
  pipeline_.segment(image.image(), memories, labels.data(), nullptr);
  if (!given.contains("expected")) return {};
  Letterbox box{};
  const auto logits = pipeline_.logits(image.image(), memories, box, false);
  const auto file = kit_.tensors(text(given["expected"]));
  const auto& expected = file->tensor("logits", "F32");
  const Picture wanted = kit_.labels(text(member(given, "labels")));
  const Json& stride_given = member(given, "stride");
  if (!stride_given.is_number_unsigned() || stride_given < 1) throw KitError("A stride cannot be.");
  const int stride = stride_given.get<int>();
  // every so many rows and columns, or none where the size is another
  const auto kept = [&](const std::vector<std::uint8_t>& all) -> std::vector<std::uint8_t> {
    std::vector<std::uint8_t> some;
    if ((image.width + stride - 1) / stride != wanted.width || (image.height + stride - 1) / stride != wanted.height)
      return some;
    for (int y = 0; y < image.height; y += stride)
      for (int x = 0; x < image.width; x += stride)
        some.push_back(
            all[static_cast<std::size_t>(y) * static_cast<std::size_t>(image.width) + static_cast<std::size_t>(x)]);
    return some;
  };
  const ModelEntry& model = pipeline_.model();
  const bool fits = has_shape(expected, {memories.size(), 2, model.feature_height, model.feature_width});
  auto values = floats(expected);
  Measures measures{{"logits", fits ? relative(logits, values) : Measure()},
                    {"labels", share(kept(labels), wanted.bytes)}};
  if (!fits) return measures;
  calibrate(values, calibrations(memories));
  std::vector<std::uint8_t> back(labels.size());
  label_map({values.data(), static_cast<int>(memories.size()), static_cast<int>(model.feature_height),
             static_cast<int>(model.feature_width)},
            box, back.data());
  measures["labels-from-logits"] = share(kept(back), wanted.bytes);
  return measures;
}

Measures Cases::memory(const Json& given) {
  bool warned = false;
  const auto warn = [&](const std::string&) { warned = true; };
  const SupportMemory memory = SupportMemory::load(kit_.file(text(member(given, "memory"))), warn);
  if (!given.contains("expected")) return {};
  const auto expected = kit_.tensors(text(given["expected"]));
  const SupportMemory again = SupportMemory::from_bytes(memory.to_bytes(), "The memory written anew");
  const Json& fields = member(given, "fields");
  const Measure arrays = arrays_apart(memory, *expected);
  return {{"fields", flag(fields_of(memory) == fields)},
          {"arrays", arrays},
          {"warning", flag(warned == (member(given, "warning") == true))},
          {"rewritten", flag(fields_of(again) == fields && arrays_apart(again, *expected) == Measure(0.0))}};
}

Measures Cases::bundle(const Json& given) {
  const PatchedBundle patched(kit_, bundle_, member(given, "patch"));
  LoadOptions options;
  options.engine = pipeline_.engine().name;
  // the files that are patched are those of this precision, whatever the other cases run in
  options.precision = text(member(kit_.content(), "precision"));
  options.engine_options.threads = threads_;
  Pipeline::load(patched.folder(), options);
  return {{"loaded", flag(true)}};
}

}  // namespace ntre
