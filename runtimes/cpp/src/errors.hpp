// The errors of `ntre_deploy.errors`: what a user can mend, in one line.
#pragma once

#include <string>
#include <vector>

#include "ntre/error.hpp"

namespace ntre {

// Bad input: a file, an option or a value that cannot be used.
inline Error input_error(const std::string& text) { return Error(ErrorCode::input, text); }

// An engine that was asked for is not available, or failed while it ran.
inline Error engine_error(const std::string& text) { return Error(ErrorCode::engine, text); }

// Throws an input error that names the values that exist, unless `given` is one of them.
void check_one_of(const std::string& given, const std::vector<std::string>& known, const std::string& what);

std::string joined(const std::vector<std::string>& parts, const std::string& between = ", ");

}  // namespace ntre
