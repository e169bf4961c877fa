#include "files.hpp"

#include <cerrno>
#include <cstdio>
#include <random>
#include <system_error>

#include "errors.hpp"

#ifndef _WIN32
#include <fcntl.h>
#include <unistd.h>
#endif

namespace ntre {

namespace {

std::string reason(int number) { return std::generic_category().message(number); }

std::string short_text(const fs::path& path) {
  const std::string text = path.string();
  return text.size() <= 1000 ? text : text.substr(0, 120) + "..." + text.substr(text.size() - 60);
}

Error cannot_read(const fs::path& path, const std::string& what, int number) {
  return input_error(what + " " + short_text(path) + " cannot be read: " + reason(number) + ".");
}

Error cannot_write(const fs::path& path, int number) {
  const char* hint = number == ENOSPC ? "Free some space or choose" : "Choose";
  return input_error("Cannot write " + short_text(path) + ": " + reason(number) + ". " + hint + " another folder.");
}

struct File {
  std::FILE* handle;

  explicit File(std::FILE* opened) : handle(opened) {}
  ~File() { close(); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool close() {
    const bool closed = handle == nullptr || std::fclose(handle) == 0;
    handle = nullptr;
    return closed;
  }
};

std::FILE* open_file(const fs::path& path, bool write) {
#ifdef _WIN32
  return _wfopen(path.c_str(), write ? L"wbx" : L"rb");
#else
  return std::fopen(path.c_str(), write ? "wbx" : "rb");
#endif
}

bool to_disk(std::FILE* file) {
  if (std::fflush(file) != 0) return false;
#ifndef _WIN32
  if (fsync(fileno(file)) != 0) return false;
#endif
  return true;
}

void folder_to_disk(const fs::path& folder) {
#ifndef _WIN32
  // the rename is done; a system that cannot flush folders is no reason to say that it is not
  const int handle = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY);
  if (handle < 0) return;
  fsync(handle);
  ::close(handle);
#else
  (void)folder;
#endif
}

}  // namespace

bool is_plain_file(const fs::path& path) {
  std::error_code failed;
  return fs::symlink_status(path, failed).type() == fs::file_type::regular;
}

std::string read_file(const fs::path& path, const std::string& what, std::uint64_t most) {
  std::error_code failed;
  const std::uint64_t size = fs::file_size(path, failed);
  if (failed) throw cannot_read(path, what, failed.value());
  if (size > most)
    throw input_error(what + " " + short_text(path) + " has " + std::to_string(size) + " bytes, and " +
                      std::to_string(most) + " at most are expected.");
  const File file(open_file(path, false));
  if (file.handle == nullptr) throw cannot_read(path, what, errno);
  std::string content(size, '\0');
  // it may have changed since: what is read is checked, whatever its length
  content.resize(std::fread(content.data(), 1, content.size(), file.handle));
  if (std::ferror(file.handle)) throw cannot_read(path, what, errno);
  return content;
}

void write_file(const fs::path& path, std::string_view content) {
  std::error_code failed;
  if (fs::exists(path, failed) && !fs::is_regular_file(path, failed))
    throw input_error("Cannot write " + path.string() + ": it is no plain file; choose another name.");
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), failed);
  fs::path temporary = path;
  temporary.replace_filename("." + path.filename().string() + ".partial-" + std::to_string(std::random_device()()));
  File file(open_file(temporary, true));
  if (file.handle == nullptr) throw cannot_write(path, errno);
  const bool written = std::fwrite(content.data(), 1, content.size(), file.handle) == content.size();
  if (!written || !to_disk(file.handle) || !file.close()) {
    const int number = errno;
    file.close();
    fs::remove(temporary, failed);
    throw cannot_write(path, number);
  }
  fs::rename(temporary, path, failed);
  if (failed) {
    const int number = failed.value();
    fs::remove(temporary, failed);
    throw cannot_write(path, number);
  }
  folder_to_disk(path.parent_path());
}

}  // namespace ntre
