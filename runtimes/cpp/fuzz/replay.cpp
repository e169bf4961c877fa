// Runs a fuzz target on files and on those of folders, where there is no libFuzzer.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void run(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> content{std::istreambuf_iterator<char>(file), {}};
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(content.data()), content.size());
}

}  // namespace

int main(int count, char** names) {
  int done = 0;
  for (int i = 1; i < count; ++i) {
    if (!std::filesystem::is_directory(names[i])) {
      run(names[i]);
      ++done;
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(names[i])) {
      run(entry.path());
      ++done;
    }
  }
  std::printf("%d inputs\n", done);
  return done == 0;
}
