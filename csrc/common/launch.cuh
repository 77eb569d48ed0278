// Launching, and what has to be known of the device for it. Errors are thrown.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "common/reduce.cuh"
#include "common/rows.cuh"

namespace sgr::cuda {

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call would meet it again
  throw std::runtime_error(std::string("CUDA error: ") + cudaGetErrorString(error));
}

struct Launch {
  int64_t blocks;
  int threads;
  size_t shared_bytes = sizeof(Scratch);
};

template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), const Launch& launch, cudaStream_t stream,
                   const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(launch.threads);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...));
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device, value;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Blocks: one for every item while the grid allows it; kernels loop over the rest.
inline int64_t grid_for(int64_t items) { return std::min<int64_t>(items, device_attribute(cudaDevAttrMaxGridDimX)); }

// Threads for a stretch of `length` elements: a pack each, in whole warps.
template <typename T>
int threads_for(int64_t length) {
  constexpr int64_t few = 128;
  return static_cast<int>(std::clamp<int64_t>((length / kPack<T> + 31) / 32 * 32, few, kMaxThreads));
}

}  // namespace sgr::cuda
