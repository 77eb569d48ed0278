// Launching, and what has to be known of the device for it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "common/reduce.cuh"
#include "common/rows.cuh"

// Leaves the function with the error of a CUDA call.
#define SGR_CUDA_TRY(call) \
  if (const cudaError_t error = (call); error != cudaSuccess) return error

namespace sgr::cuda {

struct Launch {
  int64_t blocks;
  int threads;
  size_t shared_bytes = sizeof(Scratch);
  int cluster = 1;
};

inline cudaLaunchConfig_t launch_config(const Launch& launch, cudaLaunchAttribute* cluster, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(launch.threads);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = stream;
  if (launch.cluster > 1) {
    cluster->id = cudaLaunchAttributeClusterDimension;
    cluster->val.clusterDim.x = launch.cluster;
    cluster->val.clusterDim.y = 1;
    cluster->val.clusterDim.z = 1;
    config.attrs = cluster;
    config.numAttrs = 1;
  }
  return config;
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), const Launch& launch, cudaStream_t stream,
                          const Arguments&... arguments) {
  cudaLaunchAttribute cluster;
  const cudaLaunchConfig_t config = launch_config(launch, &cluster, stream);
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

inline cudaError_t device_attribute(cudaDeviceAttr attribute, int* value) {
  int device;
  SGR_CUDA_TRY(cudaGetDevice(&device));
  return cudaDeviceGetAttribute(value, attribute, device);
}

// One group of `cluster` blocks for every item while the grid allows it; kernels loop over the rest.
inline cudaError_t grid_for(int64_t items, int cluster, int64_t* blocks) {
  int limit;
  SGR_CUDA_TRY(device_attribute(cudaDevAttrMaxGridDimX, &limit));
  *blocks = std::min<int64_t>(items, limit / cluster) * cluster;
  return cudaSuccess;
}

// Threads for a stretch of `length` elements: a pack each, in whole warps.
template <typename T>
int threads_for(int64_t length) {
  constexpr int64_t few = 128;
  return static_cast<int>(std::clamp<int64_t>((length / kPack<T> + 31) / 32 * 32, few, kMaxThreads));
}

}  // namespace sgr::cuda
