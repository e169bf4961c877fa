// ntre-conformance: runs a conformance kit (docs/conformance.md) on this runtime.
#include <cmath>
#include <fstream>
#include <iostream>

#include "cases.hpp"
#include "errors.hpp"
#include "ntre/version.h"
#include "sha256.hpp"

namespace ntre {
namespace {

constexpr char kHelp[] =
    R"(usage: ntre-conformance KIT BUNDLE [--engine NAME] [--precision NAME] [--threads N] [--out FILE]

Runs every case of a kit that `ntre conformance` made of the bundle, prints those that fail, and writes the report as
JSON. Exit codes: 0 all passed, 1 one did not, 2 the kit or the bundle cannot be used, 3 the engine cannot be had.
)";

struct Arguments {
  std::vector<std::string> places;
  std::string out;
  LoadOptions options;
};

Arguments parse(int count, char** words) {
  Arguments found;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= count) throw input_error(word + " needs a value; ntre-conformance --help tells of it.");
      return words[++i];
    };
    if (word == "--engine") {
      found.options.engine = value();
    } else if (word == "--precision") {
      found.options.precision = value();
    } else if (word == "--threads") {
      found.options.engine_options.threads = std::atoi(value().c_str());
    } else if (word == "--out") {
      found.out = value();
    } else if (word.rfind("--", 0) == 0) {
      throw input_error("Option " + word + " is unknown; ntre-conformance --help lists them.");
    } else {
      found.places.push_back(word);
    }
  }
  if (found.places.size() != 2)
    throw input_error("A kit and a bundle are expected; ntre-conformance --help tells how.");
  return found;
}

const char* class_of(const Error& error) {
  switch (error.code()) {
    case ErrorCode::input:
      return "input";
    case ErrorCode::engine:
      return "engine";
    case ErrorCode::gate:
      return "gate";
    default:
      return "internal";
  }
}

bool is_expected(const Error& error, const Json& expected) {
  const std::string told = error.what();
  bool right = member(expected, "class") == class_of(error) && !told.empty() && told.find('\n') == std::string::npos;
  for (const Json& words : member(expected, "text"))
    right = right && words.is_string() && told.find(words.get_ref<const std::string&>()) != std::string::npos;
  return right;
}

// the need of a case that this runtime does not meet; empty without
std::string unmet(const Json& given) {
  for (const Json& need : given.value("needs", Json::array()))
    if (need != "folder" && need != "link" && need != "signature") return need.get<std::string>();
  return "";
}

Json run_case(const Json& given, Cases& cases, const Json& kit_tolerances, const std::string& precision) {
  Json result = {{"name", member(given, "name")},
                 {"kind", member(given, "kind")},
                 {"passed", true},
                 {"skipped", nullptr},
                 {"steps", Json::array()},
                 {"message", nullptr}};
  if (const std::string need = unmet(given); !need.empty()) {
    result["skipped"] = need;
    return result;
  }
  Measures measures;
  const bool fails = given.contains("error");
  try {
    measures = cases.run(given);
    if (fails) {
      result["message"] = "an error was expected";
      measures = {{"error", flag(false)}};
    }
  } catch (const Error& error) {
    result["message"] = error.what();
    measures = {};
    if (fails) measures["error"] = flag(is_expected(error, given["error"]));
  }
  Json limits = kit_tolerances.value(precision, Json::object());
  limits.update(given.value("tolerances", Json::object()));
  for (const Json& name : member(given, "steps")) {
    const auto limit = limits.find(name.get<std::string>());
    if (limit == limits.end() || !limit->is_number())
      throw KitError("The kit has no tolerance for " + shown(name) + " in " + precision + ".");
    const auto found = measures.find(name.get<std::string>());
    // nothing to compare fails as NaN does
    const double measured = found == measures.end() ? kNoNumber : found->second.value_or(kNoNumber);
    const bool passed = measured <= limit->get<double>();
    Json step = {{"name", name}, {"measured", nullptr}, {"tolerance", *limit}, {"passed", passed}};
    if (std::isfinite(measured)) step["measured"] = measured;
    result["steps"].push_back(step);
    if (!passed) result["passed"] = false;
  }
  if (result["steps"].empty()) result["passed"] = false;
  return result;
}

int run(const Arguments& arguments) {
  Kit kit(fs::u8path(arguments.places[0]));
  const fs::path folder = fs::u8path(arguments.places[1]);
  const Bundle bundle = Bundle::open(folder, {});
  const std::string manifest = read_file(folder / kManifest, "Bundle");
  if (member(kit.content()["bundle"], "manifest_sha256") != sha256(manifest))
    throw KitError("The kit " + arguments.places[0] + " was made of another bundle than " + folder.string() +
                   ", or it was changed since; make a kit of it with `ntre conformance " + folder.string() +
                   " --out KIT`.");
  LoadOptions options = arguments.options;
  // without the self-test: a runtime that differs is to be told in which step
  options.self_test = false;
  Pipeline pipeline = Pipeline::load(folder, options);
  Cases cases(kit, pipeline, folder, options.engine_options.threads);
  const std::string precision = pipeline.engine().precision;
  Json report = {
      {"format", "ntre-conformance-result"},
      {"version", 1},
      {"kit", {{"model", member(kit.content()["bundle"], "model")}, {"sha256", kit.sha256()}}},
      {"runtime",
       {{"name", "cpp"}, {"version", NTRE_VERSION}, {"engine", pipeline.engine().name}, {"precision", precision}}},
      {"passed", true},
      {"cases", Json::array()}};
  std::size_t failed = 0, skipped = 0;
  for (const Json& given : kit.content()["cases"]) {
    Json result = run_case(given, cases, kit.content()["tolerances"], precision);
    skipped += !result["skipped"].is_null();
    if (result["passed"] == false) {
      ++failed;
      std::cout << "failed: " << result.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
    }
    report["cases"].push_back(std::move(result));
  }
  report["passed"] = failed == 0;
  if (!arguments.out.empty())
    write_file(fs::u8path(arguments.out), report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  std::cout << pipeline.engine().name << ' ' << precision << ": " << report["cases"].size() << " cases, " << failed
            << " failed, " << skipped << " skipped\n";
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace ntre

int main(int count, char** words) {
  for (int i = 1; i < count; ++i)
    if (const std::string word = words[i]; word == "--help" || word == "-h") {
      std::cout << ntre::kHelp;
      return 0;
    }
  try {
    return ntre::run(ntre::parse(count, words));
  } catch (const ntre::Error& error) {
    std::cerr << "ntre-conformance: " << error.what() << '\n';
    return static_cast<int>(error.code());
  } catch (const ntre::KitError& error) {
    std::cerr << "ntre-conformance: " << error.what() << '\n';
    return 2;
  } catch (const ntre::Json::exception& error) {
    std::cerr << "ntre-conformance: kit.json holds a value of another type than expected: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "ntre-conformance: " << error.what() << '\n';
    return 4;
  }
}
