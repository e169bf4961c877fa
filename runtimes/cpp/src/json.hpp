// JSON of hostile files: bounded depth, and values shown in messages as Python shows them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace ntre {

using Json = nlohmann::json;

struct JsonError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// JSON, but with a number that a 64-bit float does not hold.
struct JsonRangeError : JsonError {
  using JsonError::JsonError;
};

// Throws JsonError: no JSON, no UTF-8, or nested deeper than any file of ours.
Json parse_json(std::string_view text);

// The value as Python's `repr`, cut after 80 characters.
std::string shown(const Json& value);

}  // namespace ntre
