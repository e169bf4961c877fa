// Segments what a camera sees, with memories that `ntre segment --save-memory` or ntre-run wrote.
//
//   ntre-camera BUNDLE NUMBER-OR-VIDEO MEMORY...      Esc or q ends it
#include <chrono>
#include <cstdio>
#include <opencv2/core.hpp>
#include <opencv2/highgui.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <string>
#include <vector>

#include "ntre/ntre.hpp"

namespace {

// blue, green, red of the first classes, then again from the first on
const cv::Vec3b kColours[] = {{60, 76, 231}, {219, 152, 52}, {113, 204, 46}, {18, 156, 243}, {182, 89, 155}};

void paint(cv::Mat& frame, const ntre::LabelMap& map) {
  for (int y = 0; y < map.height; ++y) {
    cv::Vec3b* const row = frame.ptr<cv::Vec3b>(y);
    for (int x = 0; x < map.width; ++x) {
      const int label = map.at(x, y);
      if (label == 0) continue;
      const cv::Vec3b& colour = kColours[static_cast<std::size_t>(label - 1) % std::size(kColours)];
      for (int c = 0; c < 3; ++c) row[x][c] = static_cast<std::uint8_t>((row[x][c] + colour[c]) / 2);
    }
  }
}

void run(const std::vector<std::string>& words) {
  ntre::Segmenter segmenter(words[0]);
  std::vector<ntre::Memory> classes;
  for (std::size_t i = 2; i < words.size(); ++i) classes.push_back(ntre::Memory::load(words[i]));
  const bool number = words[1].find_first_not_of("0123456789") == std::string::npos;
  cv::VideoCapture camera;
  if (!(number ? camera.open(std::stoi(words[1])) : camera.open(words[1])))
    throw ntre::Error(ntre::ErrorCode::input, words[1] + " is no camera or video that can be opened.");
  std::printf("%s\n", segmenter.reason().c_str());
  cv::Mat frame, rgb;
  while (camera.read(frame)) {
    const auto begin = std::chrono::steady_clock::now();
    cv::cvtColor(frame, rgb, cv::COLOR_BGR2RGB);
    const ntre::ImageView view{rgb.data, rgb.cols, rgb.rows, static_cast<std::ptrdiff_t>(rgb.step)};
    const ntre::LabelMap map = segmenter.segment(view, classes);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    paint(frame, map);
    const std::string text = std::to_string(static_cast<int>(took.count() + 0.5)) + " ms";
    cv::putText(frame, text, {10, 30}, cv::FONT_HERSHEY_SIMPLEX, 0.8, {255, 255, 255}, 2);
    cv::imshow("ntre-camera", frame);
    if (const int key = cv::waitKey(1); key == 27 || key == 'q') break;
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) {
    std::fprintf(stderr, "usage: ntre-camera BUNDLE NUMBER-OR-VIDEO MEMORY...\n");
    return 2;
  }
  try {
    run({words + 1, words + count});
    return 0;
  } catch (const ntre::Error& error) {
    std::fprintf(stderr, "ntre-camera: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
