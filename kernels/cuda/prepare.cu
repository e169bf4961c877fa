// Pre-processing: a uint8 RGB image of any size to the letterboxed, normalised network input, in one pass.
//
// One warp makes 32 neighbouring pixels of one output row. For each source row under them it copies the bytes of all 32
// into shared memory with 16-byte loads, and every lane adds up its own taps there: global reads are whole sectors
// whatever the alignment of the rows, each byte is read about once, and lanes that lie 3 x scale bytes apart hit
// different banks for most scales. Warps share nothing, so there is no block-wide barrier.
#include "prepare.cuh"

namespace ntre {

constexpr int kRowsPerBlock = 8;
// 336 pixels with any misalignment fit into 64 granules of 16 bytes, two per lane
constexpr int kChunkPixels = 336;
constexpr int kGranules = 64;

struct Source {
  const uint8_t* image;  // [height, width, 3], rows `pitch` bytes apart
  long long pitch;
  int height, width;
};

// Copies pixels [begin, end) of a row; returns where the first one lies in `stage`.
__device__ __forceinline__ int stage_row(const Source& source, int row, int begin, int end, uint4* stage) {
  const uint8_t* const image_end = source.image + (source.height - 1) * source.pitch + 3 * source.width;
  const uint8_t* const first = source.image + row * source.pitch + 3 * begin;
  const int shift = static_cast<int>(reinterpret_cast<uintptr_t>(first) & 15);
  const uint8_t* const base = first - shift;
  const int granules = (shift + 3 * (end - begin) + 15) / 16;
  for (int i = static_cast<int>(threadIdx.x); i < granules; i += kWarp) {
    const uint8_t* const from = base + 16 * i;
    if (from >= source.image && from + 16 <= image_end) {
      stage[i] = __ldg(reinterpret_cast<const uint4*>(from));
    } else {  // the image's own ends: nothing outside it is touched
      uint8_t* const to = reinterpret_cast<uint8_t*>(stage + i);
      for (int j = 0; j < 16; ++j) {
        if (from + j >= source.image && from + j < image_end) to[j] = from[j];
      }
    }
  }
  __syncwarp();
  return shift;
}

__device__ __forceinline__ void linear_pixel(const Source& source, int x, int x_first, int x_last, int y,
                                             int inner_height, int inner_width, uint4* stage, float* grey) {
  const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(stage);
  const LinearTaps row = linear_taps(y, inner_height, source.height, false);
  const LinearTaps column = linear_taps(x, inner_width, source.width, true);
  // at most two source pixels for each output pixel, so one chunk holds them all
  const int begin = linear_taps(x_first, inner_width, source.width, true).low;
  const int end = linear_taps(x_last, inner_width, source.width, true).high + 1;
  int upper[3], lower[3];
  const int low = 3 * (column.low - begin), high = 3 * (column.high - begin);
  int shift = stage_row(source, row.low, begin, end, stage);
  for (int c = 0; c < 3; ++c) upper[c] = linear_across(bytes[shift + low + c], bytes[shift + high + c], column);
  __syncwarp();
  shift = stage_row(source, row.high, begin, end, stage);
  for (int c = 0; c < 3; ++c) lower[c] = linear_across(bytes[shift + low + c], bytes[shift + high + c], column);
  for (int c = 0; c < 3; ++c) grey[c] = static_cast<float>(linear_down(upper[c], lower[c], row));
}

__device__ __forceinline__ void area_pixel(const Source& source, int x, int x_first, int x_last, int y,
                                           int inner_height, int inner_width, uint4* stage, float* grey) {
  const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(stage);
  const bool whole = source.height % inner_height == 0 && source.width % inner_width == 0;
  const AreaTaps rows = area_taps(y, inner_height, source.height, whole);
  const AreaTaps columns = area_taps(x, inner_width, source.width, whole);
  const int begin = area_taps(x_first, inner_width, source.width, whole).first;
  const int end = area_taps(x_last, inner_width, source.width, whole).last + 1;
  float total[3] = {0.0f, 0.0f, 0.0f};
  for (int row = rows.first; row <= rows.last; ++row) {
    float across[3] = {0.0f, 0.0f, 0.0f};
    for (int chunk = begin; chunk < end; chunk += kChunkPixels) {
      const int chunk_end = smaller(chunk + kChunkPixels, end);
      const int shift = stage_row(source, row, chunk, chunk_end, stage);
      const int last = smaller(columns.last, chunk_end - 1);
      for (int column = larger(columns.first, chunk); column <= last; ++column) {
        const float weight = area_weight(column, columns);
        const uint8_t* const pixel = bytes + shift + 3 * (column - chunk);
        for (int c = 0; c < 3; ++c) across[c] = add_product(across[c], static_cast<float>(pixel[c]), weight);
      }
      __syncwarp();
    }
    const float weight = area_weight(row, rows);
    for (int c = 0; c < 3; ++c) total[c] = add_product(total[c], across[c], weight);
  }
  const int area = (source.height / inner_height) * (source.width / inner_width);
  const float scale = whole ? ratio(1, area) : 1.0f;
  for (int c = 0; c < 3; ++c) grey[c] = to_grey(total[c] * scale);
}

// out [3, size, size]; zero, the mean colour, outside the inner rectangle. Blocks of 32 x kRowsPerBlock threads.
template <typename Out, bool kArea>
__device__ __forceinline__ void prepare(const Source& source, int inner_height, int inner_width, int size,
                                        const float* mean, const float* scale, Out* out) {
  __shared__ uint4 stages[kRowsPerBlock][kGranules];
  const int x_first = static_cast<int>(blockIdx.x) * kWarp;
  const int x = x_first + static_cast<int>(threadIdx.x);
  const int y = static_cast<int>(blockIdx.y) * kRowsPerBlock + static_cast<int>(threadIdx.y);
  if (y >= size) return;  // a whole warp: threadIdx.y is the warp
  const bool inside = y < inner_height && x < inner_width;
  float grey[3] = {0.0f, 0.0f, 0.0f};
  if (y < inner_height && x_first < inner_width) {
    // lanes right of the image take its last pixel, so that the warp stays together
    const int x_last = smaller(x_first + kWarp, inner_width) - 1;
    const int column = smaller(x, x_last);
    uint4* const stage = stages[threadIdx.y];
    if constexpr (kArea) {
      area_pixel(source, column, x_first, x_last, y, inner_height, inner_width, stage, grey);
    } else {
      linear_pixel(source, column, x_first, x_last, y, inner_height, inner_width, stage, grey);
    }
  }
  if (x >= size) return;
  const long long plane = static_cast<long long>(size) * size;
  Out* const to = out + static_cast<long long>(y) * size + x;
  for (int c = 0; c < 3; ++c) {
    to[c * plane] = from_float<Out>(inside ? normalised(grey[c], mean[c], scale[c]) : 0.0f);
  }
}

}  // namespace ntre

#define NTRE_PREPARE(NAME, OUT, AREA)                                                                               \
  extern "C" __global__ void __launch_bounds__(ntre::kWarp* ntre::kRowsPerBlock, 3)                                  \
      NAME(const uint8_t* image, long long pitch, int height, int width, int inner_height, int inner_width,         \
           int size, float mean_r, float mean_g, float mean_b, float scale_r, float scale_g, float scale_b,         \
           OUT* out) {                                                                                              \
    const ntre::Source source = {image, pitch, height, width};                                                      \
    const float mean[3] = {mean_r, mean_g, mean_b}, scale[3] = {scale_r, scale_g, scale_b};                         \
    ntre::prepare<OUT, AREA>(source, inner_height, inner_width, size, mean, scale, out);                            \
  }

NTRE_PREPARE(prepare_linear_f16, half, false)
NTRE_PREPARE(prepare_linear_f32, float, false)
NTRE_PREPARE(prepare_area_f16, half, true)
NTRE_PREPARE(prepare_area_f32, float, true)
