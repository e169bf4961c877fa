// OpenVINO on the CPU: reads the bundle's ONNX files, in the precision that was asked for and in no other.
//
// OpenVINO chooses bfloat16 by itself where the processor has it. So the precision is always named, and what the
// compiled graphs really use is read back before the first image.
#include <openvino/openvino.hpp>

#include <algorithm>
#include <list>
#include <map>
#include <mutex>
#include <sstream>

#include "cpu.hpp"
#include "engine.hpp"
#include "errors.hpp"
#include "onnxfile.hpp"

namespace ntre {

namespace {

constexpr char kName[] = "openvino";
// compiled graphs kept; each holds the weights in the processor's own layout
constexpr std::size_t kKept = 4;
constexpr std::size_t kMostTold = 300;

// OpenVINO leads with the places in its own sources; what went wrong comes last.
std::string told(const std::exception& error) {
  std::string kept;
  std::istringstream lines(error.what());
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find_first_not_of(" \t\r"), last = line.find_last_not_of(" \t\r");
    if (first == std::string::npos) continue;
    line = line.substr(first, last - first + 1);
    if (line.rfind("Exception from", 0) == 0 || line.rfind("Check '", 0) == 0) continue;
    kept += (kept.empty() ? "" : " ") + line;
  }
  return kept.empty() ? "unknown error" : kept.substr(0, kMostTold);
}

// One for the life of the process, and never destroyed: what its plugins hold must outlive every static object of the
// program, and the signal stacks of its threads must not be unmapped under them.
ov::Core& the_core() {
  static ov::Core* const core = new ov::Core();
  return *core;
}

// Precision of the convolutions of a graph: the one that all have; int8 where some layers run in it.
std::string found_precision(const ov::CompiledModel& compiled) {
  static const std::map<std::string, std::string> names = {
      {"f32", "fp32"}, {"bf16", "bf16"}, {"f16", "fp16"}, {"i8", "int8"}, {"u8", "int8"}};
  std::vector<std::string> found;
  for (const auto& node : compiled.get_runtime_model()->get_ops()) {
    const auto& info = node->get_rt_info();
    const auto layer = info.find("layerType"), precision = info.find("runtimePrecision");
    if (layer == info.end() || precision == info.end() || layer->second.as<std::string>() != "Convolution") continue;
    const auto type = precision->second.as<std::string>();
    const auto name = names.find(type);
    found.push_back(name == names.end() ? type : name->second);
  }
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  if (std::find(found.begin(), found.end(), "int8") != found.end()) return "int8";
  return found.empty() ? "unknown" : joined(found, " and ");
}

// the part of a cache folder that belongs to one version of OpenVINO: no version reads what another wrote
fs::path cache_folder(const fs::path& folder) {
  std::string own = "openvino-" + std::string(ov::get_openvino_version().buildNumber);
  for (char& c : own)
    if (!std::isalnum(static_cast<unsigned char>(c)) && std::string("_.+-").find(c) == std::string::npos) c = '-';
  std::error_code failed;
  fs::create_directories(folder / own, failed);
  if (failed) throw input_error("Cache folder " + folder.string() + " cannot be made: " + failed.message() + ".");
  return folder / own;
}

// One ONNX file, compiled per number of classes (0 for the support graph) when one first occurs: with it fixed, a small
// network runs up to a third faster. The oldest of `kKept` goes first.
class Graph {
 public:
  // `rest`: precision of the layers that are not quantised
  Graph(std::string content, std::string rest, const EngineOptions& options)
      : content_(std::move(content)), rest_(std::move(rest)) {
    properties_ = {
        ov::hint::inference_precision(rest_ == "bf16" ? ov::element::bf16 : ov::element::f32),
        ov::hint::performance_mode(options.hint == "latency" ? ov::hint::PerformanceMode::LATENCY
                                                             : ov::hint::PerformanceMode::THROUGHPUT),
    };
    if (options.threads > 0) properties_.insert(ov::inference_num_threads(options.threads));
    if (!options.cache.empty()) properties_.insert(ov::cache_dir(cache_folder(options.cache).string()));
  }

  std::shared_ptr<ov::CompiledModel> compiled(std::size_t classes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const auto& one) { return one.first == classes; });
    if (found != kept_.end()) {
      kept_.splice(kept_.begin(), kept_, found);
    } else {
      kept_.emplace_front(classes, compile(classes));
      if (kept_.size() > kKept) kept_.pop_back();
    }
    return kept_.front().second;
  }

 private:
  std::shared_ptr<ov::CompiledModel> compile(std::size_t classes) const {
    std::shared_ptr<ov::CompiledModel> compiled;
    bool quantised = false;
    try {
      const auto model = the_core().read_model(content_, ov::Tensor());
      std::map<std::string, ov::PartialShape> shapes;
      for (const auto& port : model->inputs()) {
        const std::string name = port.get_any_name();
        auto shape = port.get_partial_shape();
        // prototypes and chunks lead with the classes, keys with what is open, everything else with the batch
        if (name != "keys") shape[0] = name == "prototypes" || name == "chunks" ? static_cast<int64_t>(classes) : 1;
        shapes[name] = shape;
      }
      model->reshape(shapes);
      const auto operations = model->get_ops();
      quantised = std::any_of(operations.begin(), operations.end(), [](const std::shared_ptr<ov::Node>& node) {
        return std::string(node->get_type_name()) == "FakeQuantize";
      });
      compiled = std::make_shared<ov::CompiledModel>(the_core().compile_model(model, "CPU", properties_));
    } catch (const std::exception& error) {
      throw engine_error("OpenVINO cannot load the graph: " + told(error));
    }
    // of the two graphs of an int8 bundle, one may have been left as it was
    const std::string wanted = quantised ? "int8" : rest_;
    const std::string found = found_precision(*compiled);
    if (found != wanted)
      throw engine_error("OpenVINO was asked for " + wanted + " and runs the graph in " + found +
                         "; take another precision or engine.");
    return compiled;
  }

  const std::string content_;
  const std::string rest_;
  ov::AnyMap properties_;
  std::mutex mutex_;
  std::list<std::pair<std::size_t, std::shared_ptr<ov::CompiledModel>>> kept_;
};

// A graph with an inference request of one thread.
class Runner {
 public:
  explicit Runner(std::shared_ptr<Graph> graph) : graph_(std::move(graph)) {}

  const std::shared_ptr<Graph>& graph() const { return graph_; }

  ov::InferRequest& request(std::size_t classes) {
    auto compiled = graph_->compiled(classes);
    if (compiled != compiled_) {
      request_ = compiled->create_infer_request();
      compiled_ = std::move(compiled);
    }
    return request_;
  }

 private:
  std::shared_ptr<Graph> graph_;
  std::shared_ptr<ov::CompiledModel> compiled_;
  ov::InferRequest request_;
};

// Inputs are read in place; the engine does not write to them.
template <class Value>
ov::Tensor tensor(const std::vector<Value>& values, const ov::Shape& shape) {
  return ov::Tensor(ov::element::from<Value>(), shape, const_cast<Value*>(values.data()));
}

std::vector<float> output(ov::InferRequest& request, const char* name) {
  const ov::Tensor found = request.get_tensor(name);
  const float* const data = found.data<const float>();
  return std::vector<float>(data, data + found.get_size());
}

std::size_t side(std::size_t pixels) {
  std::size_t found = 1;
  while (found * found < pixels) ++found;
  return found;
}

template <class Call>
auto run(Call call) {
  try {
    return call();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw engine_error("OpenVINO failed while it ran: " + told(error));
  }
}

class OpenVino : public Engine {
 public:
  OpenVino(const std::string& precision, std::shared_ptr<Graph> support, std::shared_ptr<Graph> query)
      : Engine(kName, precision), support_(std::move(support)), query_(std::move(query)) {}

  Encoded support(const std::vector<float>& image, const std::vector<float>& mask) override {
    const std::size_t size = side(mask.size());
    return run([&] {
      ov::InferRequest& request = support_.request(0);
      request.set_tensor("image", tensor(image, {1, 3, size, size}));
      request.set_tensor("mask", tensor(mask, {1, 1, size, size}));
      request.infer();
      return Encoded{output(request, "prototype"), output(request, "keys")};
    });
  }

  std::vector<float> query(const std::vector<float>& image, const StackedSupports& supports) override {
    const std::size_t size = side(image.size() / 3);
    return run([&] {
      ov::InferRequest& request = query_.request(supports.classes);
      request.set_tensor("image", tensor(image, {1, 3, size, size}));
      request.set_tensor("prototypes", tensor(supports.prototypes, {supports.classes, supports.channels}));
      request.set_tensor("keys", tensor(supports.keys, {supports.count, kChunk, supports.depth}));
      request.set_tensor("chunks", tensor(supports.chunks, {supports.classes, supports.shots, supports.longest}));
      request.infer();
      return output(request, "logits");
    });
  }

  std::unique_ptr<Engine> clone() const override {
    return std::make_unique<OpenVino>(precision, support_.graph(), query_.graph());
  }

 private:
  Runner support_;
  Runner query_;
};

std::string lacks(const std::string& precision) {
  if (precision == "bf16" && !native_bf16()) return "this processor has no bf16 instructions (AMX-BF16 or AVX512-BF16)";
  return "";
}

std::string unwise(const std::string& precision) {
  if (precision == "int8" && !native_int8()) return "this processor has no int8 instructions (AMX-INT8 or VNNI)";
  return "";
}

std::unique_ptr<Engine> open(const Bundle& bundle, const std::string& precision, const EngineOptions& options) {
  const EngineEntry* const entry = bundle.built(kName, precision);
  if (entry == nullptr)
    throw input_error(bundle.folder().string() + " was not exported for openvino in " + precision +
                      "; export it with --engine openvino.");
  check_one_of(precision, {"fp32", "bf16", "int8"}, "Precision of openvino");
  if (const auto reason = lacks(precision); !reason.empty())
    throw engine_error("openvino cannot run " + precision + " here: " + reason + "; take fp32.");
  const std::string rest = precision != "int8" ? precision : native_bf16() ? "bf16" : "fp32";
  const auto graph = [&](const std::string& name) {
    std::string content = bundle.read(bundle.file(name));
    check_self_contained(content, name);
    return std::make_shared<Graph>(std::move(content), rest, options);
  };
  auto support = graph(entry->support), query = graph(entry->query);
  // compiled here, so that what cannot be had is said at load and not at the first image
  support->compiled(0);
  query->compiled(1);
  return std::make_unique<OpenVino>(precision, std::move(support), std::move(query));
}

}  // namespace

EngineKind openvino_kind() { return {kName, kName, {"int8", "bf16", "fp32"}, lacks, unwise, open}; }

}  // namespace ntre
