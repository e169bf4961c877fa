// The warp-wide instructions of the prior: copies into shared memory that overlap with arithmetic, transposing matrix
// loads, and the fp16 -> fp32 tensor-core product. SM80 has all of them; SM75 gets the product in halves and plain copies.
// Without nvcc the same functions, element by element, come from the tests' emulator.
#pragma once

#include "common.cuh"

#ifdef __CUDACC__
namespace ntre {

// Copies 16 bytes, or writes zeros where `inside` is false. Both addresses are multiples of 16.
__device__ __forceinline__ void copy16(void* to_shared, const void* from, bool inside) {
#if __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(to_shared));
  const int bytes = inside ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#else
  *static_cast<uint4*>(to_shared) = inside ? __ldg(static_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
#endif
}

__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most the newest `kPending` groups of this thread's copies are under way.
template <int kPending> __device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

// Four 8 x 8 matrices of halves, each read transposed. Lane l gives the address of row l % 8 of matrix l / 8 and gets
// of every matrix the elements [row 2 (l % 4) + {0, 1}][column l / 4], the lower row in the lower half.
__device__ __forceinline__ void load_transposed(unsigned (&to)[4], const half* from_shared) {
  const unsigned from = static_cast<unsigned>(__cvta_generic_to_shared(from_shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(from)
               : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8]. With g = lane / 4 and t = lane % 4, each register two halves or one float:
// a = rows {g, g + 8, g, g + 8}, columns {2t, 2t, 2t + 8, 2t + 8} + {0, 1}; b = rows {2t, 2t + 8} + {0, 1}, column g;
// c = rows {g, g, g + 8, g + 8}, columns {2t, 2t + 1, 2t, 2t + 1}.
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

}  // namespace ntre
#else
#include "emulated_mma.hpp"
#endif
