// The prior (eq. 5): for every pixel the largest similarity to any support key, without the [h*w, M] matrix.
//
// prior_normalise  query features [B, D, P] -> fp16 unit vectors [B, D, padded], norms in float32. Padding the pixels to
//                  whole tiles makes every later load 16 bytes wide and aligned, also for odd feature sizes.
// prior_best       tiles of 128 pixels x 128 keys on tensor cores, 32 channels at a time, three stages of asynchronous
//                  copies. Both operands lie with the channel as the slow axis, so the transposing loads feed the
//                  fragments as they are; the 16-byte columns of a row are XORed with the row, so neither the copies
//                  nor the loads meet a bank twice. A tile's 128 x 128 products are reduced to 128 maxima in registers.
//                  Few pixels leave most of a large GPU idle, so the keys are split over blocks; each writes its own
//                  maxima, and no atomics are needed.
// prior_finish     the maximum over the splits, min-max per shot, mean over the shots that are present.
#include <math.h>

#include "mma.cuh"

namespace ntre {

constexpr float kTinyNorm = 1e-12f;  // keeps 0 / 0 away; export.prior has the same
constexpr float kPriorEpsilon = 1e-7f;

constexpr int kNormaliseParts = 16;

// Blocks of 32 pixels x kNormaliseParts shares of the channels.
template <typename In>
__device__ __forceinline__ void normalise(const In* feature, int channels, int pixels, int padded, half* rows) {
  __shared__ float sums[kNormaliseParts][kWarp];
  const int p = static_cast<int>(blockIdx.x) * kWarp + static_cast<int>(threadIdx.x);
  const In* const from = feature + static_cast<long long>(blockIdx.y) * channels * pixels + p;
  half* const to = rows + static_cast<long long>(blockIdx.y) * channels * padded + p;
  const bool inside = p < pixels;
  float sum = 0.0f;
#pragma unroll 8
  for (int d = static_cast<int>(threadIdx.y); d < channels; d += kNormaliseParts) {
    const float value = inside ? to_float(__ldg(from + static_cast<long long>(d) * pixels)) : 0.0f;
    sum += value * value;
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  float total = 0.0f;
  for (int i = 0; i < kNormaliseParts; ++i) total += sums[i][threadIdx.x];
  const float norm = sqrtf(total);
  const float scale = 1.0f / (norm < kTinyNorm ? kTinyNorm : norm);
#pragma unroll 8
  for (int d = static_cast<int>(threadIdx.y); d < channels; d += kNormaliseParts) {  // the second read comes from cache
    const float value = inside ? to_float(__ldg(from + static_cast<long long>(d) * pixels)) : 0.0f;
    to[static_cast<long long>(d) * padded] = __float2half_rn(value * scale);
  }
}

constexpr int kTile = 128;                // pixels, and keys, of a block
constexpr int kDepth = 32;                // channels of a stage
constexpr int kStages = 3;                // 48 KiB of shared memory, the most without opting in
constexpr int kBestThreads = 256;         // 2 x 4 warps of 64 pixels x 32 keys
constexpr int kColumnsOf16 = kTile / 8;   // 16-byte columns of a stage's row
constexpr int kStageHalves = kDepth * kTile;

NTRE_INLINE int swizzled(int k, int column) { return k * kTile + (column / 8 ^ (k & 7)) * 8 + column % 8; }

struct Operand {
  const half* data;  // [channels, stride], 16-byte aligned rows
  int channels, stride;

  // channels [k, k + kDepth) x columns [column, column + kTile) into a stage, zeros outside
  __device__ __forceinline__ void copy(half* stage, int k, int column) const {
    for (int i = static_cast<int>(threadIdx.x); i < kDepth * kColumnsOf16; i += kBestThreads) {
      const int row = i / kColumnsOf16, at = i % kColumnsOf16 * 8;
      const bool inside = k + row < channels && column + at < stride;
      const half* const from = inside ? data + static_cast<long long>(k + row) * stride + column + at : data;
      copy16(stage + swizzled(row, at), from, inside);
    }
  }
};

// rows [B, D, padded], keys [NK, D, stride] of which the first `valid` columns count -> best [splits, B, NK, pixels].
// A block: 128 pixels (x), one class and shot (y), one image and split (z).
__device__ __forceinline__ void best(const half* rows, const half* keys, int channels, int pixels, int padded, int valid,
                                     int stride, int splits, float* out) {
  __shared__ __align__(128) half stage_a[kStages][kStageHalves], stage_b[kStages][kStageHalves];
  const int image = static_cast<int>(blockIdx.z) / splits, split = static_cast<int>(blockIdx.z) % splits;
  const int images = static_cast<int>(gridDim.z) / splits;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
  const int first_pixel = static_cast<int>(blockIdx.x) * kTile;
  const Operand a = {rows + static_cast<long long>(image) * channels * padded, channels, padded};
  const Operand b = {keys + static_cast<long long>(blockIdx.y) * channels * stride, channels, stride};
  const int tiles = (valid + kTile - 1) / kTile, steps = (channels + kDepth - 1) / kDepth;
  const int first_tile = static_cast<int>(static_cast<long long>(split) * tiles / splits);
  const int end_tile = static_cast<int>(static_cast<long long>(split + 1) * tiles / splits);

  // the copies run kStages - 1 steps ahead of the products, across the borders of the tiles
  int copy_tile = first_tile, copy_step = 0, copy_stage = 0;
  const auto copy_next = [&]() {
    if (copy_tile < end_tile) {
      a.copy(stage_a[copy_stage], copy_step * kDepth, first_pixel);
      b.copy(stage_b[copy_stage], copy_step * kDepth, copy_tile * kTile);
      copy_stage = copy_stage + 1 == kStages ? 0 : copy_stage + 1;
      if (++copy_step == steps) copy_step = 0, ++copy_tile;
    }
    commit_copies();  // an empty group keeps the count
  };
  for (int i = 0; i < kStages - 1; ++i) copy_next();

  float largest[4][2];  // of this lane's rows: 4 fragments x rows g and g + 8
#pragma unroll
  for (int m = 0; m < 4; ++m) largest[m][0] = largest[m][1] = -INFINITY;
  int stage = 0;
  for (int tile = first_tile; tile < end_tile; ++tile) {
    float sum[4][4][4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int n = 0; n < 4; ++n) sum[m][n][0] = sum[m][n][1] = sum[m][n][2] = sum[m][n][3] = 0.0f;
    }
    for (int step = 0; step < steps; ++step) {
      wait_copies<kStages - 2>();
      __syncthreads();  // this step's stage is whole, and nobody reads the one that is filled next
      copy_next();
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        unsigned fragment_a[4], fragment_b[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n) {  // matrices: channels 0-7, 8-15 of keys 0-7, then of keys 8-15
          const int row = k + lane % 8 + lane / 8 % 2 * 8, column = warp_column + 16 * n + lane / 16 * 8;
          load_transposed(fragment_b[n], stage_b[stage] + swizzled(row, column));
        }
#pragma unroll
        for (int m = 0; m < 4; ++m) {  // matrices: pixels 0-7, 8-15 of channels 0-7, then of channels 8-15
          const int row = k + lane % 8 + lane / 16 * 8, column = warp_row + 16 * m + lane / 8 % 2 * 8;
          load_transposed(fragment_a, stage_a[stage] + swizzled(row, column));
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            multiply_add(sum[m][n], fragment_a, fragment_b[n / 2][n % 2 * 2], fragment_b[n / 2][n % 2 * 2 + 1]);
          }
        }
      }
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // columns past the last key are no keys: a zero would beat a padding shot's negative similarities
        if (tile * kTile + warp_column + 8 * n + 2 * (lane % 4) + i % 2 >= valid) continue;
#pragma unroll
        for (int m = 0; m < 4; ++m) largest[m][i / 2] = max_nan(sum[m][n][i], largest[m][i / 2]);
      }
    }
  }

  __syncthreads();  // the last copies are long done, and the stages free: the four warps of a row meet in them
  float* const meet = reinterpret_cast<float*>(stage_a[0]);  // [4, kTile]
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float value = largest[m][h];
      value = max_nan(__shfl_xor_sync(kAllLanes, value, 1), value);
      value = max_nan(__shfl_xor_sync(kAllLanes, value, 2), value);
      if (lane % 4 == 0) meet[warp % 4 * kTile + warp_row + 16 * m + 8 * h + lane / 4] = value;
    }
  }
  __syncthreads();
  const int p = first_pixel + thread;
  if (thread >= kTile || p >= pixels) return;
  float value = meet[thread];
  for (int i = 1; i < 4; ++i) value = max_nan(meet[i * kTile + thread], value);
  const long long row = (static_cast<long long>(split) * images + image) * gridDim.y + blockIdx.y;
  out[row * pixels + p] = value;
}

constexpr int kFinishThreads = 512;
constexpr int kFinishWarps = kFinishThreads / kWarp;

// partial [splits, B, N, K, pixels] (overwritten) -> out [B, N, pixels]. A block: one class (x) of one image (y).
__device__ __forceinline__ void finish(float* partial, int splits, int shots, int pixels, float* out) {
  __shared__ float lows[kFinishWarps], highs[kFinishWarps];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const long long row = static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x;
  const long long rows = static_cast<long long>(gridDim.y) * gridDim.x;
  float* const to = out + row * pixels;
  float present = 0.0f;
  for (int k = 0; k < shots; ++k) {
    float* const maxima = partial + (row * shots + k) * pixels;
    float low = INFINITY, high = -INFINITY;
    for (int p = thread; p < pixels; p += kFinishThreads) {
      float value = maxima[p];
      for (int i = 1; i < splits; ++i) value = max_nan(maxima[i * rows * shots * pixels + p], value);
      maxima[p] = value;
      low = min_nan(value, low);
      high = max_nan(value, high);
    }
    for (int step = kWarp / 2; step > 0; step /= 2) {
      low = min_nan(__shfl_xor_sync(kAllLanes, low, step), low);
      high = max_nan(__shfl_xor_sync(kAllLanes, high, step), high);
    }
    __syncthreads();  // the previous shot's values have been read
    if (lane == 0) lows[warp] = low, highs[warp] = high;
    __syncthreads();
    for (int i = 0; i < kFinishWarps; ++i) {
      low = min_nan(lows[i], low);
      high = max_nan(highs[i], high);
    }
    // features behind a ReLU have no negative similarity: a shot with one is padding
    const float counts = low >= 0.0f ? 1.0f : 0.0f;
    present += counts;
    for (int p = thread; p < pixels; p += kFinishThreads) {
      const float scaled = (maxima[p] - low) / (high - low + kPriorEpsilon) * counts;
      to[p] = k == 0 ? scaled : to[p] + scaled;
    }
  }
  const float shares = present < 1.0f ? 1.0f : present;
  for (int p = thread; p < pixels; p += kFinishThreads) to[p] /= shares;
}

}  // namespace ntre

#define NTRE_NORMALISE(NAME, IN)                                                                                  \
  extern "C" __global__ void __launch_bounds__(ntre::kWarp* ntre::kNormaliseParts)                                \
      NAME(const IN* feature, int channels, int pixels, int padded, half* rows) {                                 \
    ntre::normalise<IN>(feature, channels, pixels, padded, rows);                                                 \
  }

NTRE_NORMALISE(prior_normalise_f16, half)
NTRE_NORMALISE(prior_normalise_f32, float)

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define NTRE_BLOCKS 2
#else
#define NTRE_BLOCKS 1  // 64 KiB of shared memory hold one block, so it may have the registers
#endif
extern "C" __global__ void __launch_bounds__(ntre::kBestThreads, NTRE_BLOCKS)
    prior_best(const half* rows, const half* keys, int channels, int pixels, int padded, int valid, int stride,
               int splits, float* best) {
  ntre::best(rows, keys, channels, pixels, padded, valid, stride, splits, best);
}

extern "C" __global__ void __launch_bounds__(ntre::kFinishThreads)
    prior_finish(float* partial, int splits, int shots, int pixels, float* out) {
  ntre::finish(partial, splits, shots, pixels, out);
}
