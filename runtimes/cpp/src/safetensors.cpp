#include "safetensors.hpp"

#include <algorithm>
#include <cstring>

#include "json.hpp"

namespace ntre {

namespace {

// as the reference implementation
constexpr std::uint64_t kMaxHeader = 100'000'000;

const std::map<std::string, std::uint64_t>& sizes() {
  static const std::map<std::string, std::uint64_t> known = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"I64", 8},     {"U64", 8}, {"F64", 8},
  };
  return known;
}

struct Found {
  std::string name;
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t from;
  std::uint64_t to;
};

const Json& object(const Json& value, const std::string& what) {
  if (!value.is_object()) throw SafetensorsError(what + " is no object");
  return value;
}

std::vector<std::uint64_t> whole_numbers(const Json& entry, const char* key, const std::string& wrong) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array()) throw SafetensorsError(wrong);
  std::vector<std::uint64_t> numbers;
  for (const auto& value : *found) {
    if (!value.is_number_unsigned()) throw SafetensorsError(wrong);
    numbers.push_back(value.get<std::uint64_t>());
  }
  return numbers;
}

Found parse_tensor(const std::string& name, const Json& given) {
  const Json& entry = object(given, name);
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string() || !sizes().count(dtype->get<std::string>()))
    throw SafetensorsError(name + " has an unknown dtype");
  Found found{name, dtype->get<std::string>(), whole_numbers(entry, "shape", name + " has no shape"), 0, 0};
  const auto offsets = whole_numbers(entry, "data_offsets", name + " has no offsets");
  if (offsets.size() != 2) throw SafetensorsError(name + " has no offsets");
  found.from = offsets[0];
  found.to = offsets[1];
  std::uint64_t size = sizes().at(found.dtype);
  for (const auto side : found.shape) {
    if (side != 0 && size > UINT64_MAX / side) throw SafetensorsError(name + " has another size than its shape");
    size *= side;
  }
  if (found.to < found.from || found.to - found.from != size)
    throw SafetensorsError(name + " has another size than its shape");
  return found;
}

std::uint64_t read_length(std::string_view file) {
  std::uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(file[static_cast<std::size_t>(i)]);
  return length;
}

}  // namespace

Safetensors read_safetensors(std::string_view file) {
  if (file.size() < 8) throw SafetensorsError("it is shorter than a header");
  const std::uint64_t length = read_length(file);
  if (length > kMaxHeader) throw SafetensorsError("its header is too large");
  const std::uint64_t begin = 8 + length;
  if (begin > file.size()) throw SafetensorsError("its header runs past the end");
  Json header;
  try {
    header = parse_json(file.substr(8, length));
  } catch (const JsonError&) {
    throw SafetensorsError("its header is no JSON");
  }
  Safetensors read;
  std::vector<Found> found;
  for (const auto& [name, entry] : object(header, "the header").items()) {
    if (name != "__metadata__") {
      found.push_back(parse_tensor(name, entry));
      continue;
    }
    for (const auto& [key, value] : object(entry, "the metadata").items()) {
      if (!value.is_string()) throw SafetensorsError("its metadata are no texts");
      read.metadata[key] = value.get<std::string>();
    }
  }
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return std::pair(a.from, a.to) < std::pair(b.from, b.to); });
  std::uint64_t at = 0;
  for (auto& tensor : found) {
    if (tensor.from != at || tensor.to > file.size() - begin)
      throw SafetensorsError(tensor.name + " does not lie where it should");
    at = tensor.to;
    const auto bytes = file.substr(begin + tensor.from, tensor.to - tensor.from);
    read.tensors[tensor.name] = {tensor.dtype, std::move(tensor.shape), bytes};
  }
  if (begin + at != file.size()) throw SafetensorsError("there are bytes that belong to no tensor");
  return read;
}

std::vector<float> floats(const TensorView& tensor) {
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  // an empty vector has no address to copy to
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(float));
  return values;
}

std::string write_safetensors(const std::vector<FloatTensor>& tensors,
                              const std::vector<std::pair<std::string, std::string>>& metadata) {
  Json header = {{"__metadata__", Json::object()}};
  for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
  std::uint64_t at = 0;
  std::string body;
  for (const auto& tensor : tensors) {
    std::uint64_t bytes = sizeof(float);
    for (const auto side : tensor.shape) bytes *= side;
    header[tensor.name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
    body.append(reinterpret_cast<const char*>(tensor.data), bytes);
  }
  // what is no UTF-8 cannot be written; a name may come from anywhere
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  // tensors begin at a multiple of 8
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string file(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(text.size() >> 8 * i & 0xff);
  return file + text + body;
}

}  // namespace ntre
