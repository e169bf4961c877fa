#include <fstream>
#include <random>

#include "cases.hpp"

namespace ntre {

namespace {

std::string unhex(const Json& given) {
  if (!given.is_string() || given.get_ref<const std::string&>().size() % 2) throw KitError("hex of a patch cannot be.");
  const auto& digits = given.get_ref<const std::string&>();
  if (digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
    throw KitError("hex of a patch cannot be.");
  std::string bytes;
  for (std::size_t i = 0; i < digits.size(); i += 2)
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  return bytes;
}

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void write(const fs::path& path, const std::string& content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  if (!file.flush()) throw std::runtime_error("Cannot write " + path.string());
}

}  // namespace

PatchedBundle::PatchedBundle(Kit& kit, const fs::path& bundle, const Json& patch) {
  root_ = fs::temp_directory_path() / ("ntre-conformance-" + std::to_string(std::random_device()()));
  fs::create_directory(root_);
  folder_ = root_ / "bundle.ntre";
  fs::create_directory(folder_);
  try {
    for (const auto& entry : fs::directory_iterator(bundle))
      fs::copy_file(entry.path(), folder_ / entry.path().filename());
    for (const Json& operation : patch) apply(kit, operation);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
    throw;
  }
}

PatchedBundle::~PatchedBundle() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

void PatchedBundle::apply(Kit& kit, const Json& operation) {
  const std::string op = member(operation, "op").get<std::string>();
  const std::string name = member(operation, "name").get<std::string>();
  const fs::path path = folder_ / fs::u8path(name);
  // a file directly in the copy, whatever the kit says
  if (path.parent_path() != folder_ || name == "." || name == "..") throw KitError("A patch leaves the bundle.");
  if (op == "write") {
    fs::remove_all(path);
    write(path, kit.bytes(member(operation, "file").get<std::string>()));
  } else if (op == "append") {
    write(path, content_of(path) + unhex(member(operation, "hex")));
  } else if (op == "overwrite") {
    std::string content = content_of(path);
    const std::string bytes = unhex(member(operation, "hex"));
    const auto at = member(operation, "at").get<std::size_t>();
    if (at > content.size()) throw KitError("A patch begins behind the end of its file.");
    content.replace(at, bytes.size(), bytes);
    write(path, content);
  } else if (op == "resize") {
    std::string content = content_of(path);
    content.resize(member(operation, "size").get<std::size_t>());
    write(path, content);
  } else if (op == "remove") {
    fs::remove_all(path);
  } else if (op == "link") {
    const fs::path moved = root_ / ("moved-" + name);
    fs::rename(path, moved);
    fs::create_symlink(moved, path);
  } else if (op == "folder") {
    fs::remove_all(path);
    fs::create_directory(path);
  } else {
    throw KitError("A patch does '" + op + "', which this version of ntre does not know.");
  }
}

}  // namespace ntre
