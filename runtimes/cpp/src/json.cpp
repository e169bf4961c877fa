#include "json.hpp"

namespace ntre {

namespace {

constexpr int kMaxDepth = 200;
constexpr std::size_t kMostShown = 80;

// writes no more than what is shown of it, however large the value is
void write(const Json& value, std::string& out) {
  if (out.size() > 2 * kMostShown) return;
  if (value.is_null()) {
    out += "None";
  } else if (value.is_boolean()) {
    out += value.get<bool>() ? "True" : "False";
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
    out += quote;
    for (const char c : text) {
      if (out.size() > 2 * kMostShown) break;
      const auto byte = static_cast<unsigned char>(c);
      if (c == '\n') {
        out += "\\n";
      } else if (c == '\t') {
        out += "\\t";
      } else if (c == '\r') {
        out += "\\r";
      } else if (c == '\\' || c == quote) {
        out += {'\\', c};
      } else if (byte < 0x20 || byte == 0x7f) {
        constexpr char digits[] = "0123456789abcdef";
        out += {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
      } else {
        out += c;
      }
    }
    out += quote;
  } else if (value.is_structured()) {
    const char* between = "";
    out += value.is_array() ? '[' : '{';
    for (auto it = value.begin(); it != value.end() && out.size() <= 2 * kMostShown; ++it) {
      out += between;
      between = ", ";
      if (value.is_object()) {
        write(it.key(), out);
        out += ": ";
      }
      write(*it, out);
    }
    out += value.is_array() ? ']' : '}';
  } else {
    out += value.dump();
  }
}

// the library leads with the name of the error in brackets
std::string without_name(const std::string& told) {
  const auto end = told.find("] ");
  return end == std::string::npos ? told : told.substr(end + 2);
}

}  // namespace

Json parse_json(std::string_view text) {
  const auto shallow = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) throw JsonError("nested too deep");
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), shallow);
  } catch (const Json::out_of_range& error) {
    throw JsonRangeError(without_name(error.what()));
  } catch (const Json::exception& error) {
    throw JsonError(without_name(error.what()));
  }
}

std::string shown(const Json& value) {
  std::string text;
  write(value, text);
  if (text.size() <= kMostShown) return text;
  // not within a character
  std::size_t end = kMostShown - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace ntre
