#include "onnxfile.hpp"

#include <cstdint>

#include "errors.hpp"

namespace ntre {

namespace {

enum class Kind { other, model, training, function, graph, node, attribute, sparse, tensor };

constexpr std::uint64_t kExternalData = 13, kDataLocation = 14;
constexpr int kMaxNesting = 64;

struct Unreadable {
  const char* why;
};

// ONNX's field numbers: what a field of a message holds; `tensor` is where external data is declared
Kind child(Kind kind, std::uint64_t field) {
  switch (kind) {
    case Kind::model:
      return field == 7 ? Kind::graph : field == 20 ? Kind::training : field == 25 ? Kind::function : Kind::other;
    case Kind::training:
      return field == 1 || field == 2 ? Kind::graph : Kind::other;
    case Kind::function:
      return field == 7 ? Kind::node : field == 11 ? Kind::attribute : Kind::other;
    case Kind::graph:
      return field == 1 ? Kind::node : field == 5 ? Kind::tensor : field == 15 ? Kind::sparse : Kind::other;
    case Kind::node:
      return field == 5 ? Kind::attribute : Kind::other;
    case Kind::attribute:
      if (field == 5 || field == 10) return Kind::tensor;
      if (field == 6 || field == 11) return Kind::graph;
      return field == 22 || field == 23 ? Kind::sparse : Kind::other;
    case Kind::sparse:
      return field == 1 || field == 2 ? Kind::tensor : Kind::other;
    default:
      return Kind::other;
  }
}

class Fields {
 public:
  explicit Fields(std::string_view data) : data_(data) {}

  // the next field, of which `value` or `bytes` is set; false at the end
  bool next() {
    while (at_ < data_.size()) {
      const std::uint64_t tag = varint();
      // protobuf drops the upper bits, and would see another field than this does
      if (tag >> 32) throw Unreadable{"tag is too long"};
      number = tag >> 3;
      bytes = {};
      value = 0;
      switch (tag & 7) {
        case 0:
          value = varint();
          return true;
        case 2:
          bytes = take(varint());
          return true;
        case 1:
          take(8);
          break;
        case 5:
          take(4);
          break;
        default:
          throw Unreadable{"unknown wire type"};
      }
    }
    return false;
  }

  std::uint64_t number = 0;
  std::uint64_t value = 0;
  std::string_view bytes;

 private:
  std::uint64_t varint() {
    std::uint64_t found = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      if (at_ >= data_.size()) throw Unreadable{"field runs past the end"};
      const auto byte = static_cast<unsigned char>(data_[at_++]);
      if (shift < 64) found |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      // a bit above the 64th is one that protobuf drops
      if (shift == 63 && byte > 1) throw Unreadable{"varint is too long"};
      if (byte < 0x80) return found;
    }
    throw Unreadable{"varint is too long"};
  }

  std::string_view take(std::uint64_t length) {
    if (length > data_.size() - at_) throw Unreadable{"field runs past the end"};
    const auto taken = data_.substr(at_, length);
    at_ += length;
    return taken;
  }

  std::string_view data_;
  std::size_t at_ = 0;
};

bool external(std::string_view data, Kind kind, int depth) {
  if (depth > kMaxNesting) throw Unreadable{"nested too deep"};
  Fields fields(data);
  while (fields.next()) {
    if (kind == Kind::tensor) {
      // an empty location or a text there is no zero either
      const bool located = fields.number == kDataLocation && (fields.value != 0 || fields.bytes.data() != nullptr);
      if (fields.number == kExternalData || located) return true;
      continue;
    }
    const Kind inner = child(kind, fields.number);
    if (inner != Kind::other && fields.bytes.data() != nullptr && external(fields.bytes, inner, depth + 1)) return true;
  }
  return false;
}

}  // namespace

void check_self_contained(std::string_view content, const std::string& name) {
  bool found = false;
  try {
    found = external(content, Kind::model, 0);
  } catch (const Unreadable& error) {
    throw input_error(name + " is not a readable ONNX file (" + error.why + "); export the bundle again.");
  }
  if (found)
    throw input_error(name + " keeps weights in external data files, which are refused; export it as a single file.");
}

}  // namespace ntre
