// Clones, memories and errors in several threads at once, through the C++ class and so through the C ABI. What each
// thread finds must be what one thread finds alone; ThreadSanitizer watches the rest.
//
//   threads BUNDLE FOLDER
//
// FOLDER is written to.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "ntre/ntre.hpp"

namespace {

constexpr int kThreads = 4, kTurns = 6;

std::atomic<int> wrong{0};

void demand(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what.c_str());
  ++wrong;
}

// Smooth colours that differ with `seed`, and a target in their middle.
struct Scene {
  Scene(int its_width, int its_height, unsigned seed)
      : width(its_width),
        height(its_height),
        pixels(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3),
        target(pixels.size() / 3) {
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const auto at = static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x);
        const bool inside = 4 * x > width && 4 * x < 3 * width && 4 * y > height && 4 * y < 3 * height;
        target[at] = inside;
        for (unsigned c = 0; c < 3; ++c) {
          const unsigned base = inside ? 40 + 60 * ((seed + c) % 3) : 200 - 30 * c;
          pixels[3 * at + c] = static_cast<std::uint8_t>(base + static_cast<unsigned>(x + 2 * y) % 17);
        }
      }
    }
  }

  ntre::ImageView image() const { return {pixels.data(), width, height, 3 * std::ptrdiff_t{width}}; }
  ntre::MaskView mask() const { return {target.data(), width, height, width}; }

  int width, height;
  std::vector<std::uint8_t> pixels, target;
};

// Another error in each thread, whose text nobody else may overwrite.
void fail_alone(int number) {
  const std::string path = "no-such-memory-" + std::to_string(number);
  try {
    ntre::Memory::load(path);
    demand(false, "a memory that is not there is an error");
  } catch (const ntre::Error& error) {
    demand(error.code() == ntre::ErrorCode::input, "a memory that is not there is bad input");
    std::this_thread::yield();
    demand(std::string(ntre_last_error()).find(path) != std::string::npos, "each thread has its own error");
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const std::string bundle = arguments[1], folder = arguments[2];
  ntre::Options options;
  options.engine = "double";
  options.self_test = false;
  ntre::Segmenter first(bundle, options);
  const Scene a(90, 70, 0), b(64, 101, 1);
  const std::vector<ntre::Memory> memories =
      first.encode({{"a", {{a.image(), a.mask()}}}, {"b", {{b.image(), b.mask()}, {a.image(), a.mask()}}}});

  std::vector<Scene> scenes;
  std::vector<ntre::LabelMap> wanted;
  for (int n = 0; n < kTurns; ++n) {
    scenes.emplace_back(40 + 61 * n, 130 - 17 * n, static_cast<unsigned>(n));
    wanted.push_back(first.segment(scenes.back().image(), memories, true));
  }
  bool any = false;
  for (const auto& map : wanted)
    for (const std::uint8_t label : map.labels) any = any || label > 0;
  demand(any, "there is something to get wrong");

  std::vector<ntre::Segmenter> clones;
  for (int n = 0; n < kThreads; ++n) clones.push_back(first.clone());
  std::vector<std::thread> threads;
  for (int n = 0; n < kThreads; ++n) {
    threads.emplace_back([&, n] {
      // shared, and let go of by whoever is last
      const std::vector<ntre::Memory> own = memories;
      ntre::Segmenter& segmenter = clones[static_cast<std::size_t>(n)];
      for (int turn = 0; turn < kTurns; ++turn) {
        const auto at = static_cast<std::size_t>((turn + n) % kTurns);
        const ntre::LabelMap found = segmenter.segment(scenes[at].image(), own, true);
        demand(found.labels == wanted[at].labels && found.scores == wanted[at].scores, "a clone finds the same");
        fail_alone(n);
      }
      // a bundle is opened, a memory encoded, written and read while others do so
      ntre::Segmenter another(bundle, options);
      const ntre::Memory memory = another.encode("a", {{a.image(), a.mask()}});
      const std::string path = folder + "/" + std::to_string(n) + ".safetensors";
      memory.save(path);
      demand(ntre::Memory::load(path).to_bytes() == memory.to_bytes(), "a memory is read back");
      // all write the same file, whole
      memory.save(folder + "/same.safetensors");
      demand(ntre::Memory::load(folder + "/same.safetensors").shots() == 1, "a file is never half-written");
      ntre::Segmenter clone = another.clone();
      demand(clone.segment(scenes[0].image(), {memory}).labels == another.segment(scenes[0].image(), {memory}).labels,
             "a clone that was made in a thread finds the same");
    });
  }
  for (auto& thread : threads) thread.join();
  std::printf("%d threads, %d wrong\n", kThreads, wrong.load());
  return wrong == 0 ? 0 : 1;
}
