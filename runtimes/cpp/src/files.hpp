// Files that are read whole, and written whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace ntre {

namespace fs = std::filesystem;

// Whether something is a plain file itself, and no link to one; false where it is not there.
bool is_plain_file(const fs::path& path);

// The bytes of a file of at most `most` bytes.  `what` names it in messages.
// Throws an input error: it cannot be read, or is larger.
std::string read_file(const fs::path& path, const std::string& what, std::uint64_t most = UINT64_MAX);

// Writes a temporary file beside `path`, which then takes its name.
// Throws an input error: it cannot be written.
void write_file(const fs::path& path, std::string_view content);

}  // namespace ntre
