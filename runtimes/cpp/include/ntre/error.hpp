#pragma once

#include <stdexcept>
#include <string>

namespace ntre {

// The numbers are the exit codes of `ntre` and the statuses of ntre.h.
enum class ErrorCode { gate = 1, input = 2, engine = 3, internal = 4 };

// An error that a user can mend: one line that names what was given, what was expected and the next step.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& text) : std::runtime_error(text), code_(code) {}

  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace ntre
