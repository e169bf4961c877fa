// The C ABI: checks pointers, turns exceptions into statuses, and owns the handles.
#include "ntre/ntre.h"

#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "engine.hpp"
#include "errors.hpp"
#include "memory.hpp"
#include "pipeline.hpp"

struct ntre_segmenter {
  ntre::Pipeline pipeline;
};

struct ntre_memory {
  std::shared_ptr<const ntre::SupportMemory> memory;
};

namespace {

// a text that is always there to be pointed at, even where no memory is left to write one
thread_local std::string last_error;
thread_local bool out_of_memory = false;

// how many bytes a character of UTF-8 has that begins at `at`; 0 where none does
std::size_t character(const std::string& text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(i < text.size() ? text[i] : 0); };
  const unsigned char first = byte(at);
  const std::size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (first > 0xF4) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  return length;
}

// names may come from anywhere, and what callers get is one line of UTF-8
std::string one_line(const std::string& text) {
  std::string line;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = character(text, at);
    const bool plain = length > 1 || (length == 1 && static_cast<unsigned char>(text[at]) >= 0x20);
    line += plain ? text.substr(at, length) : length == 1 ? " " : "?";
    at += length == 0 ? 1 : length;
  }
  return line;
}

void remember(const char* text) noexcept {
  try {
    last_error = one_line(text);
    out_of_memory = false;
  } catch (...) {
    out_of_memory = true;
  }
}

template <class Call>
ntre_status guarded(Call call) noexcept {
  try {
    call();
    return NTRE_OK;
  } catch (const ntre::Error& error) {
    remember(error.what());
    return static_cast<ntre_status>(error.code());
  } catch (const std::bad_alloc&) {
    remember("No memory is left for this; free some, or give smaller images.");
    return NTRE_INTERNAL;
  } catch (const std::exception& error) {
    remember(error.what());
    return NTRE_INTERNAL;
  } catch (...) {
    remember("An unknown error.");
    return NTRE_INTERNAL;
  }
}

template <class Pointer>
void need(Pointer pointer, const char* what) {
  if (pointer == nullptr) throw ntre::input_error(std::string(what) + " is NULL.");
}

template <class Handle, class Make>
ntre_status making(Handle** out, Make make) noexcept {
  if (out != nullptr) *out = nullptr;
  return guarded([&] {
    need(out, "out");
    *out = make();
  });
}

std::string text_or(const char* text, const char* otherwise) { return text == nullptr ? otherwise : text; }

ntre::ImageView view(const ntre_image& image) {
  return {image.data, image.width, image.height, image.stride != 0 ? image.stride : std::ptrdiff_t{3} * image.width};
}

ntre::MaskView view(const ntre_mask& mask) {
  return {mask.data, mask.width, mask.height, mask.stride != 0 ? mask.stride : std::ptrdiff_t{mask.width}};
}

ntre::Memories gathered(const ntre_memory* const* memories, size_t count) {
  if (count > 0) need(memories, "memories");
  ntre::Memories found;
  for (size_t n = 0; n < count; ++n) {
    need(memories[n], "a memory");
    found.push_back(memories[n]->memory);
  }
  return found;
}

ntre::Warn warning(ntre_warn warn, void* user) {
  if (warn == nullptr) return {};
  return [warn, user](const std::string& text) { warn(text.c_str(), user); };
}

ntre_memory* handle(std::shared_ptr<const ntre::SupportMemory> memory) { return new ntre_memory{std::move(memory)}; }

ntre_memory* handle(ntre::SupportMemory memory) {
  return handle(std::make_shared<const ntre::SupportMemory>(std::move(memory)));
}

// the caller's fields, and defaults for those that it does not know
ntre_options known(const ntre_options* given) {
  ntre_options options = NTRE_OPTIONS;
  if (given == nullptr) return options;
  // as of the first version; a smaller one was never filled in
  constexpr size_t least = offsetof(ntre_options, trusted_count) + sizeof(options.trusted_count);
  if (given->size < least)
    throw ntre::input_error("The size in ntre_options is " + std::to_string(given->size) +
                            "; begin with NTRE_OPTIONS, which sets it.");
  std::memcpy(&options, given, std::min(given->size, sizeof options));
  return options;
}

std::vector<ntre::fs::path> paths(const char* const* trusted, size_t count) {
  if (count > 0) need(trusted, "trusted");
  std::vector<ntre::fs::path> found;
  for (size_t i = 0; i < count; ++i) {
    need(trusted[i], "a trusted key");
    found.push_back(ntre::fs::u8path(trusted[i]));
  }
  return found;
}

ntre::LoadOptions load_options(const ntre_options& given) {
  ntre::LoadOptions options;
  options.engine = text_or(given.engine, "auto");
  options.precision = text_or(given.precision, "");
  options.engine_options.threads = given.threads;
  options.engine_options.hint = text_or(given.hint, "latency");
  if (given.cache != nullptr) options.engine_options.cache = ntre::fs::u8path(given.cache);
  options.self_test = given.skip_self_test == 0;
  options.trusted = paths(given.trusted, given.trusted_count);
  return options;
}

std::vector<ntre::Class> gathered(const ntre_class* classes, size_t count) {
  if (count > 0) need(classes, "classes");
  std::vector<ntre::Class> found;
  for (size_t n = 0; n < count; ++n) {
    need(classes[n].name, "the name of a class");
    if (classes[n].count > 0) need(classes[n].shots, "shots");
    ntre::Class own{classes[n].name, {}};
    for (size_t k = 0; k < classes[n].count; ++k)
      own.shots.push_back({view(classes[n].shots[k].image), view(classes[n].shots[k].mask)});
    found.push_back(std::move(own));
  }
  return found;
}

}  // namespace

extern "C" {

const char* ntre_version(void) { return NTRE_VERSION; }

uint32_t ntre_abi_version(void) { return NTRE_ABI_VERSION; }

const char* ntre_last_error(void) { return out_of_memory ? "No memory is left for this." : last_error.c_str(); }

const char* ntre_engine_name(size_t index) {
  try {
    static const std::vector<std::string> names = ntre::engine_names();
    return index < names.size() ? names[index].c_str() : nullptr;
  } catch (...) {
    return nullptr;
  }
}

ntre_status ntre_load(const char* bundle, const ntre_options* options, ntre_segmenter** out) {
  return making(out, [&] {
    need(bundle, "bundle");
    return new ntre_segmenter{ntre::Pipeline::load(ntre::fs::u8path(bundle), load_options(known(options)))};
  });
}

ntre_status ntre_check(const char* bundle, const char* const* trusted, size_t trusted_count) {
  return guarded([&] {
    need(bundle, "bundle");
    ntre::Bundle::open(ntre::fs::u8path(bundle), paths(trusted, trusted_count)).check();
  });
}

ntre_status ntre_segmenter_clone(const ntre_segmenter* segmenter, ntre_segmenter** out) {
  return making(out, [&] {
    need(segmenter, "segmenter");
    return new ntre_segmenter{segmenter->pipeline.clone()};
  });
}

void ntre_segmenter_free(ntre_segmenter* segmenter) { delete segmenter; }

const char* ntre_segmenter_engine(const ntre_segmenter* segmenter) { return segmenter->pipeline.engine().name.c_str(); }

const char* ntre_segmenter_precision(const ntre_segmenter* segmenter) {
  return segmenter->pipeline.engine().precision.c_str();
}

const char* ntre_segmenter_reason(const ntre_segmenter* segmenter) { return segmenter->pipeline.reason().c_str(); }

const char* ntre_segmenter_model(const ntre_segmenter* segmenter) { return segmenter->pipeline.model().id.c_str(); }

int32_t ntre_segmenter_input_size(const ntre_segmenter* segmenter) { return segmenter->pipeline.spec().size; }

int32_t ntre_segmenter_feature_height(const ntre_segmenter* segmenter) {
  return static_cast<int32_t>(segmenter->pipeline.model().feature_height);
}

int32_t ntre_segmenter_feature_width(const ntre_segmenter* segmenter) {
  return static_cast<int32_t>(segmenter->pipeline.model().feature_width);
}

ntre_status ntre_encode(ntre_segmenter* segmenter, const ntre_class* classes, size_t count, uint32_t flags,
                        ntre_memory** out) {
  if (out != nullptr)
    for (size_t n = 0; n < count; ++n) out[n] = nullptr;
  return guarded([&] {
    need(segmenter, "segmenter");
    need(out, "out");
    if (flags > (NTRE_ALLOW_UNSEEN | NTRE_NO_SHOT_SCORES | NTRE_NO_CALIBRATION))
      throw ntre::input_error("Flags " + std::to_string(flags) + " are unknown to this version of the library.");
    const ntre::EncodeOptions options{(flags & NTRE_ALLOW_UNSEEN) != 0, (flags & NTRE_NO_SHOT_SCORES) == 0,
                                      (flags & NTRE_NO_CALIBRATION) == 0};
    std::vector<std::unique_ptr<ntre_memory>> made;
    for (auto& memory : segmenter->pipeline.encode(gathered(classes, count), options))
      made.emplace_back(handle(std::move(memory)));
    for (size_t n = 0; n < count; ++n) out[n] = made[n].release();
  });
}

ntre_status ntre_memory_load(const char* path, ntre_warn warn, void* user, ntre_memory** out) {
  return making(out, [&] {
    need(path, "path");
    return handle(ntre::SupportMemory::load(ntre::fs::u8path(path), warning(warn, user)));
  });
}

ntre_status ntre_memory_from_bytes(const uint8_t* bytes, size_t size, ntre_warn warn, void* user, ntre_memory** out) {
  return making(out, [&] {
    need(bytes, "bytes");
    const std::string_view file(reinterpret_cast<const char*>(bytes), size);
    return handle(ntre::SupportMemory::from_bytes(file, "The support memory", warning(warn, user)));
  });
}

ntre_status ntre_memory_save(const ntre_memory* memory, const char* path) {
  return guarded([&] {
    need(memory, "memory");
    need(path, "path");
    memory->memory->save(ntre::fs::u8path(path));
  });
}

ntre_status ntre_memory_to_bytes(const ntre_memory* memory, uint8_t* bytes, size_t* size) {
  return guarded([&] {
    need(memory, "memory");
    need(size, "size");
    const std::string file = memory->memory->to_bytes();
    const size_t room = std::exchange(*size, file.size());
    if (bytes == nullptr) return;
    if (room < file.size())
      throw ntre::input_error("There is room for " + std::to_string(room) + " bytes and the memory has " +
                              std::to_string(file.size()) + ".");
    std::memcpy(bytes, file.data(), file.size());
  });
}

ntre_status ntre_memory_uncalibrated(const ntre_memory* memory, ntre_memory** out) {
  return making(out, [&] {
    need(memory, "memory");
    ntre::SupportMemory copy = *memory->memory;
    copy.calibration.reset();
    return handle(std::move(copy));
  });
}

void ntre_memory_free(ntre_memory* memory) { delete memory; }

const char* ntre_memory_name(const ntre_memory* memory) { return memory->memory->name.c_str(); }

const char* ntre_memory_model(const ntre_memory* memory) { return memory->memory->model.c_str(); }

size_t ntre_memory_shots(const ntre_memory* memory) { return memory->memory->keys.size(); }

double ntre_memory_shot_score(const ntre_memory* memory, size_t shot) {
  const auto& scores = memory->memory->shot_scores;
  return scores && shot < scores->size() ? (*scores)[shot] : -1.0;
}

int32_t ntre_memory_calibration(const ntre_memory* memory, double* offset, double* scale) {
  const auto& calibration = memory->memory->calibration;
  if (!calibration) return 0;
  if (offset != nullptr) *offset = calibration->offset;
  if (scale != nullptr) *scale = calibration->scale;
  return 1;
}

const float* ntre_memory_prototype(const ntre_memory* memory, size_t* channels) {
  if (channels != nullptr) *channels = memory->memory->prototype.size();
  return memory->memory->prototype.data();
}

const float* ntre_memory_keys(const ntre_memory* memory, size_t shot, size_t* depth, size_t* count) {
  const auto& keys = memory->memory->keys;
  const bool there = shot < keys.size();
  if (depth != nullptr) *depth = there ? keys[shot].depth : 0;
  if (count != nullptr) *count = there ? keys[shot].count : 0;
  return there && keys[shot].count > 0 ? keys[shot].data.data() : nullptr;
}

ntre_status ntre_segment(ntre_segmenter* segmenter, const ntre_image* image, const ntre_memory* const* memories,
                         size_t count, uint8_t* labels, double* scores) {
  return guarded([&] {
    need(segmenter, "segmenter");
    need(image, "image");
    need(labels, "labels");
    std::vector<double> found;
    segmenter->pipeline.segment(view(*image), gathered(memories, count), labels, scores == nullptr ? nullptr : &found);
    if (scores != nullptr) std::copy(found.begin(), found.end(), scores);
  });
}

ntre_status ntre_logits(ntre_segmenter* segmenter, const ntre_image* image, const ntre_memory* const* memories,
                        size_t count, float* logits) {
  return guarded([&] {
    need(segmenter, "segmenter");
    need(image, "image");
    need(logits, "logits");
    ntre::Letterbox box{};
    const auto found = segmenter->pipeline.logits(view(*image), gathered(memories, count), box, false);
    std::copy(found.begin(), found.end(), logits);
  });
}

}  // extern "C"
