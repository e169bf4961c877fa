#pragma once

#include <string>
#include <string_view>

namespace ntre {

// Checks that an ONNX file holds all of its weights: a file with external data would make an engine open other files,
// named by the model, that no hash covers.
// Throws an input error: it refers to external data, or is not ONNX.
void check_self_contained(std::string_view content, const std::string& name);

}  // namespace ntre
