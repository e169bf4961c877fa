#include <algorithm>

#include "engine.hpp"
#include "errors.hpp"

namespace ntre {

namespace {

// best first
std::vector<EngineKind> kinds() {
  std::vector<EngineKind> known;
#ifdef NTRE_OPENVINO
  known.push_back(openvino_kind());
#endif
#ifdef NTRE_DOUBLE
  known.push_back(double_kind());
#endif
  return known;
}

bool holds(const std::vector<std::string>& texts, const std::string& text) {
  return std::find(texts.begin(), texts.end(), text) != texts.end();
}

// The best precision that this machine has, empty without; what was passed over for which reason goes to `passed`.
std::string best_precision(const EngineKind& kind, const std::vector<std::string>& held,
                           std::vector<std::string>& passed) {
  std::string unwise;
  std::vector<std::string> why_unwise;
  for (const auto& precision : kind.precisions) {
    if (!holds(held, precision)) continue;
    const std::string told = kind.name + " " + precision + ": ";
    if (const auto reason = kind.lacks(precision); !reason.empty()) {
      passed.push_back(told + reason);
    } else if (const auto better = kind.unwise(precision); !better.empty()) {
      if (unwise.empty()) unwise = precision;
      why_unwise.push_back(told + better);
    } else {
      passed.insert(passed.end(), why_unwise.begin(), why_unwise.end());
      return precision;
    }
  }
  return unwise;  // better than nothing
}

void check_options(const EngineOptions& options) {
  if (options.threads < 0)
    throw input_error(std::to_string(options.threads) + " threads were asked for; at least 1 is needed.");
  check_one_of(options.hint, {"latency", "throughput"}, "Hint");
}

// Throws an input error: no engine that is asked for has the precision.
void check_precision(const Bundle& bundle, const std::vector<EngineKind>& candidates, const std::string& name,
                     const std::string& precision) {
  std::vector<std::string> in_any;
  bool known = false;
  for (const auto& kind : candidates) {
    known = known || holds(kind.precisions, precision);
    for (const auto& held : bundle.precisions(kind.files))
      if (!holds(in_any, held)) in_any.push_back(held);
  }
  if (!holds(in_any, precision))
    throw input_error(bundle.folder().string() + " holds " + (in_any.empty() ? "no graphs" : joined(in_any)) + " for " +
                      name + ", not " + precision + "." + (known ? " `ntre export` makes it with --precision." : ""));
}

// reasons without the advice in brackets
std::string passed_over(std::vector<std::string> passed) {
  for (auto& text : passed) text = text.substr(0, text.find(" ("));
  return passed.empty() ? "" : "; passed over " + joined(passed, "; ");
}

}  // namespace

std::vector<std::string> engine_names() {
  std::vector<std::string> names;
  for (const auto& kind : kinds()) names.push_back(kind.name);
  return names;
}

Choice open_engine(const Bundle& bundle, const std::string& name, const std::string& precision,
                   const EngineOptions& options) {
  std::vector<std::string> names = engine_names();
  if (names.empty())
    throw engine_error("No engine can run " + bundle.folder().string() +
                       ": this library was built without one; build it with -DNTRE_OPENVINO=ON.");
  names.insert(names.begin(), "auto");
  check_one_of(name, names, "Engine");
  check_options(options);
  std::vector<EngineKind> candidates = kinds();
  if (name != "auto")
    candidates.erase(
        std::remove_if(candidates.begin(), candidates.end(), [&](const EngineKind& kind) { return kind.name != name; }),
        candidates.end());
  if (!precision.empty()) check_precision(bundle, candidates, name, precision);
  std::vector<std::string> passed;
  for (const auto& kind : candidates) {
    const auto held = bundle.precisions(kind.files);
    if (held.empty()) {
      passed.push_back(kind.name + ": the bundle holds no " + kind.files + " files; export it with --engine " +
                       kind.files);
      continue;
    }
    if (!precision.empty() && !holds(held, precision)) {
      passed.push_back(kind.name + ": the bundle does not hold " + precision + " for it");
      continue;
    }
    const std::string chosen = precision.empty() ? best_precision(kind, held, passed) : precision;
    if (chosen.empty()) continue;
    try {
      return {kind.open(bundle, chosen, options), kind.name + " " + chosen + passed_over(passed)};
    } catch (const Error& error) {
      if (candidates.size() == 1 || error.code() != ErrorCode::engine) throw;
      passed.push_back(kind.name + ": " + error.what());
    }
  }
  throw engine_error("No engine can run " + bundle.folder().string() + ": " + joined(passed, "; ") +
                     ". `ntre doctor` tells what is missing.");
}

}  // namespace ntre
