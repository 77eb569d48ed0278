// Sums over a block and over a grid, always in the same order.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

// All shared memory is dynamic, so that one place knows where it comes from.
#ifndef SGR_DYNAMIC_SHARED
#define SGR_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace sgr::cuda {

constexpr int kMaxThreads = 256;
constexpr int kMinBlocks = 3;  // on a processor: leaves 80 registers for a thread
constexpr int kMaxSums = 3;

// Lies at the start of the shared memory of every kernel.
struct alignas(16) Scratch {
  double warp[kMaxThreads / 32][kMaxSums];
};

__device__ inline Scratch& scratch() {
  SGR_DYNAMIC_SHARED(memory);
  return *reinterpret_cast<Scratch*>(memory);
}

// What follows the scratch.
__device__ inline unsigned char* shared_data() {
  SGR_DYNAMIC_SHARED(memory);
  return memory + sizeof(Scratch);
}

// Replaces every value by its sum over the threads of the block, in every thread.
template <int count>
__device__ inline void block_sum(double (&value)[count]) {
  static_assert(count <= kMaxSums);
  auto& partial = scratch().warp;
#pragma unroll
  for (int k = 0; k < count; ++k)
    for (int offset = 16; offset > 0; offset /= 2) value[k] += __shfl_xor_sync(0xffffffffu, value[k], offset);
  __syncthreads();  // the previous sum may still be being read
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int k = 0; k < count; ++k) partial[threadIdx.x / 32][k] = value[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < count; ++k) {
    value[k] = 0.0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) value[k] += partial[warp][k];
  }
}

// The largest of a value of every thread, in every thread. NaN is left out.
__device__ inline double block_max(double value) {
  auto& partial = scratch().warp;
  for (int offset = 16; offset > 0; offset /= 2) value = fmax(value, __shfl_xor_sync(0xffffffffu, value, offset));
  __syncthreads();  // the previous result may still be being read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32][0] = value;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) value = fmax(value, partial[warp][0]);
  return value;
}

// True in all threads of the last of `expected` blocks to come here: it sees what thread 0 of the others wrote before.
__device__ inline bool last_to_arrive(unsigned* ticket, unsigned expected) {
  bool last = false;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(ticket, 1u) == expected - 1;
  }
  last = __syncthreads_or(last);
  if (last) __threadfence();
  return last;
}

// A read that neither the compiler nor a cache may answer with an older value.
__device__ inline double load_fresh(const double* from) { return *const_cast<const volatile double*>(from); }

// *out = the sum of x, by all threads of the block. x: (count), may come from other blocks.
template <typename Out>
__device__ inline void sum_numbers(const double* x, int64_t count, Out* out) {
  double sum[1] = {0.0};
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum[0] += load_fresh(x + i);
  block_sum(sum);
  if (threadIdx.x == 0) *out = static_cast<Out>(sum[0]);
}

}  // namespace sgr::cuda
