#include "pictures.hpp"

#include <cstdio>
#include <fstream>
#include <iterator>

#include "ntre/error.hpp"

#ifdef NTRE_OPENCV
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#endif

namespace ntre {

namespace {

constexpr int kMostSide = 32767;

Error cannot(const std::string& path, const std::string& why) {
  return Error(ErrorCode::input, "Picture " + path + " " + why);
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw cannot(path, "does not exist or cannot be read.");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// a number of the header, with white space and comments before it; -1 where there is none
int header_number(const std::string& content, std::size_t& at) {
  const auto there = [&] { return at < content.size(); };
  const auto space = [&] { return there() && (content[at] == ' ' || (content[at] >= '\t' && content[at] <= '\r')); };
  while (space() || (there() && content[at] == '#')) {
    if (content[at] == '#')
      while (there() && content[at] != '\n') ++at;
    else
      ++at;
  }
  int number = -1;
  for (; there() && content[at] >= '0' && content[at] <= '9' && number <= kMostSide; ++at)
    number = (number < 0 ? 0 : 10 * number) + (content[at] - '0');
  return number;
}

Picture parse_netpbm(const std::string& path, const std::string& content) {
  std::size_t at = 2;
  Picture picture;
  picture.width = header_number(content, at);
  picture.height = header_number(content, at);
  const int most = header_number(content, at);
  picture.channels = content[1] == '6' ? 3 : 1;
  if (picture.width < 1 || picture.height < 1 || picture.width > kMostSide || picture.height > kMostSide)
    throw cannot(path, "has sides that cannot be; 1 to 32767 pixels are expected.");
  if (most != 255) throw cannot(path, "has levels up to " + std::to_string(most) + "; 255 are expected.");
  const auto size = static_cast<std::size_t>(picture.width) * static_cast<std::size_t>(picture.height) *
                    static_cast<std::size_t>(picture.channels);
  // one white space after the header
  if (content.size() != at + 1 + size)
    throw cannot(path, "has " + std::to_string(content.size()) + " bytes where its header says " +
                           std::to_string(at + 1 + size) + ".");
  picture.bytes.assign(content.begin() + static_cast<std::ptrdiff_t>(at) + 1, content.end());
  return picture;
}

#ifdef NTRE_OPENCV
Picture decode(const std::string& path, const std::string& content, bool grey) {
  const cv::Mat bytes(1, static_cast<int>(content.size()), CV_8U, const_cast<char*>(content.data()));
  cv::Mat found = cv::imdecode(bytes, grey ? cv::IMREAD_UNCHANGED : cv::IMREAD_COLOR);
  if (found.empty()) throw cannot(path, "is in no format that is known here.");
  if (found.depth() != CV_8U || (grey && found.channels() != 1))
    throw cannot(path, "is no picture of one byte for each value.");
  Picture picture{found.cols, found.rows, found.channels(), {}};
  for (int y = 0; y < found.rows; ++y) {
    const std::uint8_t* const row = found.ptr<std::uint8_t>(y);
    if (grey) picture.bytes.insert(picture.bytes.end(), row, row + found.cols);
    for (int x = 0; !grey && x < found.cols; ++x)  // OpenCV's order is blue, green, red
      picture.bytes.insert(picture.bytes.end(), {row[3 * x + 2], row[3 * x + 1], row[3 * x]});
  }
  return picture;
}
#endif

Picture read(const std::string& path, bool grey) {
  const std::string content = content_of(path);
  const std::string magic = content.substr(0, 2);
  if (magic == "P6" || magic == "P5") {
    Picture picture = parse_netpbm(path, content);
    if (picture.channels != (grey ? 1 : 3))
      throw cannot(path, grey ? "is a colour picture where a grey mask (PGM, P5) is expected."
                              : "is a grey picture where a photo (PPM, P6) is expected.");
    return picture;
  }
#ifdef NTRE_OPENCV
  return decode(path, content, grey);
#else
  throw cannot(path, "is no binary PPM or PGM, which alone are read where the program was built without OpenCV.");
#endif
}

}  // namespace

Picture read_image(const std::string& path) { return read(path, false); }

Picture read_mask(const std::string& path) { return read(path, true); }

void write_pgm(const std::string& path, int width, int height, const std::vector<std::uint8_t>& values) {
  // under another name until it is whole
  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary);
  file << "P5\n" << width << ' ' << height << "\n255\n";
  file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size()));
  file.close();
  if (!file || std::rename(partial.c_str(), path.c_str()) != 0) {
    std::remove(partial.c_str());
    throw Error(ErrorCode::input, "Cannot write " + path + ". Choose another folder.");
  }
}

}  // namespace ntre
