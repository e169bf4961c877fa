// Runs CUDA kernels on the CPU, threads as fibres: every thread of a block has its own stack and runs until a barrier.
// Warp-wide functions exchange values between two barriers of the warp. Blocks run one after the other, so shared
// memory may be static. Threads can run in either order: a kernel that lacks a barrier gives two results.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
};

namespace emulator {

struct Thread {
  dim3 index;
  unsigned lane, warp;
};
extern const Thread* current;
extern dim3 block_index, block_size, grid_size;

void block_barrier();
void warp_barrier();
uint64_t* warp_slots();  // [32 lanes][4] of the current warp

// Every lane's 32 bytes, for functions in which the warp acts as one; `body` reads them by lane.
template <typename Body> void exchange(const void* own, unsigned bytes, Body body) {
  std::memcpy(warp_slots() + 4 * current->lane, own, bytes);
  warp_barrier();
  body([](unsigned lane) { return reinterpret_cast<const unsigned char*>(warp_slots() + 4 * lane); });
  warp_barrier();
}

// false: some threads wait for others that never come
bool run(dim3 grid, dim3 block, bool reversed, void (*body)(void*), void* context);

template <typename... Types> struct Call {
  void (*kernel)(Types...);
  void** arguments;

  template <std::size_t... I> void apply(std::index_sequence<I...>) { kernel(*static_cast<Types*>(arguments[I])...); }
  static void enter(void* self) { static_cast<Call*>(self)->apply(std::index_sequence_for<Types...>()); }
};

template <typename... Types>
bool launch(void (*kernel)(Types...), const unsigned* grid, const unsigned* block, void** arguments, bool reversed) {
  Call<Types...> call = {kernel, arguments};
  return run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, reversed, &Call<Types...>::enter, &call);
}

}  // namespace emulator

#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::warp_barrier(); }

// A load of n bytes from an address that is no multiple of n faults on a GPU.
void emulated_misaligned(const void* address, std::size_t bytes);
template <typename T> T __ldg(const T* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T) != 0) emulated_misaligned(from, sizeof(T));
  return *from;
}

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask) {
  T other;
  emulator::exchange(&value, sizeof(T),
                     [&](auto of) { std::memcpy(&other, of(emulator::current->lane ^ mask), sizeof(T)); });
  return other;
}
