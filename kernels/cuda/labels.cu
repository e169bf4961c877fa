// Post-processing: logits at feature resolution to a uint8 label map at the image's own size (rewrite 5), no float maps.
//
// A thread owns one column of a strip of kRows output rows. It interpolates three feature rows at its column and slides
// down: when a strip passes into the next feature row, which happens every `height / h` rows, it interpolates one more.
// An output pixel then costs three multiply-adds and a comparison per class. Row taps are the same for the whole block:
// computed once, read from shared memory as a broadcast. Neighbouring threads read the same few logits and write
// neighbouring bytes.
#include "labels.cuh"

namespace ntre {

constexpr int kColumns = 128;
constexpr int kRows = 16;

struct Frame {
  int size, height, width, inner_height, inner_width;
};

template <typename In> struct ColumnView {
  const In* logits;  // [2, h, w] of one class
  int h, w;
  BackTaps taps;

  // class 1 minus class 0 of one feature row, at this column
  __device__ __forceinline__ float at(int row) const {
    const In* const rest = logits + static_cast<long long>(smaller(row, h - 1)) * w;
    const In* const target = rest + static_cast<long long>(h) * w;
    float sum = 0.0f;
    for (int i = 0; i < 3; ++i) {
      const int column = smaller(taps.base + i, w - 1);  // beyond the last feature the weight is zero
      sum += taps.weight[i] * (to_float(__ldg(target + column)) - to_float(__ldg(rest + column)));
    }
    return sum;
  }
};

// Three feature rows at one column; `base` moves down only.
template <typename In> struct Window {
  float row[3];
  int base;

  __device__ __forceinline__ void start(const ColumnView<In>& view, int at) {
    base = at;
    for (int i = 0; i < 3; ++i) row[i] = view.at(base + i);
  }
  __device__ __forceinline__ void move_to(const ColumnView<In>& view, int at) {
#pragma unroll 1
    while (base < at) {
      ++base;
      row[0] = row[1];
      row[1] = row[2];
      row[2] = view.at(base + 2);
    }
  }
};

// kOne: a single class needs no memory of the best one, so its loop stays small.
template <typename In, bool kOne>
__device__ __forceinline__ void labels(const In* logits, int classes, int h, int w, const Frame& frame, uint8_t* out) {
  __shared__ BackTaps row_taps[kRows];  // 16 bytes each: one broadcast load
  const int y_first = static_cast<int>(blockIdx.y) * kRows;
  const int rows = smaller(kRows, frame.height - y_first);
  if (threadIdx.x < kRows) {
    // rows past the end repeat the last one, so that the loops need no limit
    const int y = smaller(y_first + static_cast<int>(threadIdx.x), frame.height - 1);
    row_taps[threadIdx.x] = back_taps(y, frame.height, frame.inner_height, frame.size, h);
  }
  __syncthreads();
  const int x = static_cast<int>(blockIdx.x) * kColumns + static_cast<int>(threadIdx.x);
  if (x >= frame.width) return;
  ColumnView<In> view = {logits, h, w, back_taps(x, frame.width, frame.inner_width, frame.size, w)};
  uint8_t* const to = out + static_cast<long long>(y_first) * frame.width + x;
  Window<In> window;
  if constexpr (kOne) {
    window.start(view, row_taps[0].base);
    for (int i = 0; i < rows; ++i) {
      const BackTaps taps = row_taps[i];
      window.move_to(view, taps.base);
      const float value =
          taps.weight[0] * window.row[0] + taps.weight[1] * window.row[1] + taps.weight[2] * window.row[2];
      to[static_cast<long long>(i) * frame.width] = value > 0.0f ? 1 : 0;
    }
  } else {
    float best[kRows];
    unsigned label[kRows / 4];  // four to a register
#pragma unroll
    for (int i = 0; i < kRows; ++i) best[i] = 0.0f;
#pragma unroll
    for (int i = 0; i < kRows / 4; ++i) label[i] = 0;
    for (int index = 0; index < classes; ++index) {
      view.logits = logits + 2LL * index * h * w;
      window.start(view, row_taps[0].base);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const BackTaps taps = row_taps[i];
        window.move_to(view, taps.base);
        const float value =
            taps.weight[0] * window.row[0] + taps.weight[1] * window.row[1] + taps.weight[2] * window.row[2];
        const unsigned shift = 8 * (i % 4);
        if (value > best[i]) label[i / 4] = (label[i / 4] & ~(0xffu << shift)) | ((index + 1u) << shift);
        best[i] = max_nan(value, best[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (i < rows) to[static_cast<long long>(i) * frame.width] = static_cast<uint8_t>(label[i / 4] >> (8 * (i % 4)));
    }
  }
}

}  // namespace ntre

#define NTRE_LABELS(NAME, IN, ONE)                                                                                \
  extern "C" __global__ void __launch_bounds__(ntre::kColumns)                                                    \
      NAME(const IN* logits, int classes, int h, int w, int size, int height, int width, int inner_height,        \
           int inner_width, uint8_t* out) {                                                                       \
    const ntre::Frame frame = {size, height, width, inner_height, inner_width};                                   \
    ntre::labels<IN, ONE>(logits, classes, h, w, frame, out);                                                     \
  }

NTRE_LABELS(label_one_f16, half, true)
NTRE_LABELS(label_one_f32, float, true)
NTRE_LABELS(label_many_f16, half, false)
NTRE_LABELS(label_many_f32, float, false)
