// ntre-run: annotated images in, a label map of every further image out.
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "ntre/ntre.hpp"
#include "pictures.hpp"

namespace {

constexpr char kHelp[] =
    R"(usage: ntre-run BUNDLE [options] --support NAME=IMAGE,MASK ... IMAGE...

Segments images with a bundle of `ntre export`, and writes a label map of each: NAME.labels.pgm, of the image's own
size, 0 background, n the n-th class.

  --support NAME=IMAGE,MASK  an annotated image of a class; may be repeated, also for one class
  --memory FILE              a class that was saved; may be repeated
  --save-memory FOLDER       keep the classes as files, for --memory
  --out FOLDER               where label maps go (labels)
  --engine NAME              the engine (auto)
  --precision NAME           fp32, bf16 or int8; the engine's best without
  --threads N                of the CPU
  --cache FOLDER             keep compiled graphs, for a faster next start
  --trusted KEY.pem          demand a signature by this key; may be repeated
  --scale N                  write n * N in place of n, to look at it (1)
  --quiet                    say nothing but errors

Images are binary PPM and masks binary PGM; where the program was built with OpenCV, also JPEG and PNG.
Exit codes: 0 done, 2 bad input, 3 the engine cannot be had, 4 a defect.
)";

ntre::Error wrong(const std::string& text) { return ntre::Error(ntre::ErrorCode::input, text); }

struct Arguments {
  std::string bundle, out = "labels", save;
  ntre::Options options;
  std::vector<std::pair<std::string, std::vector<std::pair<std::string, std::string>>>> supports;
  std::vector<std::string> memories, images;
  int scale = 1;
  bool quiet = false;
};

int whole(const std::string& text, const std::string& option) {
  if (text.empty() || text.size() > 4 || text.find_first_not_of("0123456789") != std::string::npos)
    throw wrong(option + " " + text + ": a whole number is expected.");
  return std::stoi(text);
}

void add_support(Arguments& found, const std::string& text) {
  const auto equals = text.find('='), comma = text.rfind(',');
  if (equals == std::string::npos || equals == 0 || comma == std::string::npos || comma < equals)
    throw wrong("--support " + text + ": NAME=IMAGE,MASK is expected.");
  const std::string name = text.substr(0, equals);
  auto own = found.supports.begin();
  while (own != found.supports.end() && own->first != name) ++own;
  if (own == found.supports.end()) own = found.supports.insert(own, {name, {}});
  own->second.emplace_back(text.substr(equals + 1, comma - equals - 1), text.substr(comma + 1));
}

Arguments parse(int count, char** words) {
  Arguments found;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= count) throw wrong(word + " needs a value; ntre-run --help tells of it.");
      return words[++i];
    };
    if (word == "--support") {
      add_support(found, value());
    } else if (word == "--memory") {
      found.memories.push_back(value());
    } else if (word == "--save-memory") {
      found.save = value();
    } else if (word == "--out") {
      found.out = value();
    } else if (word == "--engine") {
      found.options.engine = value();
    } else if (word == "--precision") {
      found.options.precision = value();
    } else if (word == "--threads") {
      found.options.threads = whole(value(), word);
    } else if (word == "--cache") {
      found.options.cache = value();
    } else if (word == "--trusted") {
      found.options.trusted.push_back(value());
    } else if (word == "--scale") {
      found.scale = whole(value(), word);
    } else if (word == "--quiet") {
      found.quiet = true;
    } else if (word.rfind("--", 0) == 0) {
      throw wrong("Option " + word + " is unknown; ntre-run --help lists them.");
    } else if (found.bundle.empty()) {
      found.bundle = word;
    } else {
      found.images.push_back(word);
    }
  }
  if (found.bundle.empty()) throw wrong("No bundle was given; ntre-run --help tells how.");
  if (found.supports.empty() && found.memories.empty())
    throw wrong("No class was given; add --support NAME=IMAGE,MASK or --memory FILE.");
  if (found.images.empty() && found.save.empty()) throw wrong("No image was given.");
  // before an engine is opened
  for (const auto& image : found.images)
    if (!std::filesystem::exists(image)) throw wrong("Picture " + image + " does not exist or cannot be read.");
  return found;
}

// letters, digits and _.+- of a class's name
std::string plain(const std::string& name) {
  std::string text;
  for (const char c : name)
    text += std::isalnum(static_cast<unsigned char>(c)) || std::string("_.+-").find(c) != std::string::npos ? c : '-';
  return text.empty() || text[0] == '.' ? "-" + text : text;
}

std::vector<ntre::Memory> classes_of(const Arguments& arguments, ntre::Segmenter& segmenter) {
  std::vector<ntre::Picture> pictures;  // every one is looked at before the first is encoded
  for (const auto& [name, shots] : arguments.supports)
    for (const auto& [image, mask] : shots) {
      pictures.push_back(ntre::read_image(image));
      pictures.push_back(ntre::read_mask(mask));
    }
  std::vector<std::pair<std::string, std::vector<ntre::Shot>>> given;
  std::size_t next = 0;
  for (const auto& [name, shots] : arguments.supports) {
    given.emplace_back(name, std::vector<ntre::Shot>());
    for (std::size_t k = 0; k < shots.size(); ++k, next += 2)
      given.back().second.push_back({pictures[next].image(), pictures[next + 1].mask()});
  }
  const auto warn = [](const std::string& text) { std::cerr << "warning: " << text << '\n'; };
  std::vector<ntre::Memory> classes;
  for (const auto& path : arguments.memories) classes.push_back(ntre::Memory::load(path, warn));
  if (!given.empty())
    for (auto& memory : segmenter.encode(given)) classes.push_back(memory);
  return classes;
}

void run(const Arguments& arguments) {
  ntre::Segmenter segmenter(arguments.bundle, arguments.options);
  if (!arguments.quiet) std::cout << "engine: " << segmenter.reason() << '\n';
  const auto classes = classes_of(arguments, segmenter);
  if (static_cast<std::size_t>(arguments.scale) * classes.size() > 255)
    throw wrong("--scale " + std::to_string(arguments.scale) + " is too much for " + std::to_string(classes.size()) +
                " classes.");
  for (const auto& memory : classes) {
    if (arguments.save.empty()) break;
    const std::string path = arguments.save + "/" + plain(memory.name()) + ".safetensors";
    memory.save(path);
    if (!arguments.quiet) std::cout << "memory: " << path << '\n';
  }
  std::error_code failed;
  if (!arguments.images.empty()) std::filesystem::create_directories(arguments.out, failed);
  if (failed) throw wrong("Cannot write " + arguments.out + ": " + failed.message() + ". Choose another folder.");
  std::map<std::string, std::string> written;
  for (const auto& path : arguments.images) {
    const ntre::Picture picture = ntre::read_image(path);
    auto map = segmenter.segment(picture.image(), classes, true);
    const auto name = std::filesystem::path(path).stem().string() + ".labels.pgm";
    const auto out = (std::filesystem::path(arguments.out) / name).string();
    // two folders may have files of one name
    if (const auto [first, is_new] = written.emplace(out, path); !is_new)
      throw wrong(path + " and " + first->second + " would both be written to " + out + "; run them one by one.");
    for (auto& label : map.labels) label = static_cast<std::uint8_t>(label * arguments.scale);
    ntre::write_pgm(out, map.width, map.height, map.labels);
    if (arguments.quiet) continue;
    std::cout << out;
    for (std::size_t n = 0; n < classes.size(); ++n) {
      char score[32];
      std::snprintf(score, sizeof score, "%.2f", map.scores[n]);
      std::cout << (n ? ", " : ": ") << classes[n].name() << ' ' << score;
    }
    std::cout << '\n';
  }
}

}  // namespace

int main(int count, char** words) {
  for (int i = 1; i < count; ++i)
    if (const std::string word = words[i]; word == "--help" || word == "-h") {
      std::cout << kHelp;
      return 0;
    } else if (word == "--version") {
      std::cout << "ntre-run " << ntre_version() << '\n';
      return 0;
    }
  try {
    run(parse(count, words));
    return 0;
  } catch (const ntre::Error& error) {
    std::cerr << "ntre-run: " << error.what() << '\n';
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::cerr << "ntre-run: " << error.what() << '\n';
    return 4;
  }
}
