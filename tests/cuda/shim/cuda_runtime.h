// The part of CUDA that the kernels use, on the machine of machine.h. Lies in front of the real header.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>

#include "machine.h"

#define __CUDA_ARCH__ 900
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SGR_DYNAMIC_SHARED(name) unsigned char* const name = ::cuda_shim::current().block->shared

// Objects and not macros: launch configurations have members of these names. Grids have one dimension here.
namespace cuda_shim {
template <unsigned (*read)()>
struct BuiltIn {
  struct {
    operator unsigned() const { return read(); }
  } x;
};
inline unsigned thread_index() { return current().index; }
inline unsigned block_index() { return current().block->index; }
inline unsigned block_size() { return shape.threads; }
inline unsigned grid_size() { return shape.blocks; }
}  // namespace cuda_shim
constexpr cuda_shim::BuiltIn<cuda_shim::thread_index> threadIdx{};
constexpr cuda_shim::BuiltIn<cuda_shim::block_index> blockIdx{};
constexpr cuda_shim::BuiltIn<cuda_shim::block_size> blockDim{};
constexpr cuda_shim::BuiltIn<cuda_shim::grid_size> gridDim{};

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Threads and memory.

inline void __syncthreads() { cuda_shim::wait(cuda_shim::current().block->barrier); }

inline int __syncthreads_or(int predicate) {
  auto& thread = cuda_shim::current();
  int (&any)[3] = thread.block->any;
  const unsigned vote = thread.votes++;
  any[vote % 3] |= predicate != 0;
  __syncthreads();
  any[(vote + 2) % 3] = 0;  // read by all before this barrier, written by none before the next
  return any[vote % 3];
}

inline void __threadfence() { cuda_shim::current().fenced = true; }

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  auto& thread = cuda_shim::current();
  if (!thread.fenced) cuda_shim::fail("ticket taken without a fence");
  thread.fenced = false;
  const unsigned old = *address;
  *address += value;
  return old;
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (mask != 0xffffffffu) cuda_shim::fail("shuffle in part of a warp");
  auto& thread = cuda_shim::current();
  auto& warp = thread.block->warps[thread.index / 32];
  auto& slots = warp.slots[thread.shuffles++ % 2];
  std::memcpy(&slots[thread.index % 32], &value, sizeof(T));
  cuda_shim::wait(warp.barrier);
  std::memcpy(&value, &slots[thread.index % 32 ^ lane_mask], sizeof(T));
  return value;
}

template <typename T>
void shim_check_alignment(const T* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) cuda_shim::fail("misaligned access");
}

template <typename T>
T __ldg(const T* address) {
  shim_check_alignment(address);
  cuda_shim::traffic.read += sizeof(T);
  return *address;
}

// Waiting for something that is looked at again and again: others must get their turn.
inline void __nanosleep(unsigned) { cuda_shim::sleep(); }

template <typename T>
T __ldcs(const T* address) {
  return __ldg(address);
}

template <typename T>
T __ldca(const T* address) {
  return __ldg(address);
}

template <typename T>
void __stwb(T* address, T value) {
  shim_check_alignment(address);
  cuda_shim::traffic.written += sizeof(T);
  *address = value;
}

template <typename T>
void __stcs(T* address, T value) {
  __stwb(address, value);
}

// The runtime.

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801
};
using cudaStream_t = void*;

enum cudaDeviceAttr {
  cudaDevAttrMaxGridDimX,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrReservedSharedMemoryPerBlock,
  cudaDevAttrL2CacheSize,
  cudaDevAttrMultiProcessorCount
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace cuda_shim {

inline std::map<void*, size_t> allowed;  // shared memory, by kernel

template <typename Kernel>
size_t& allowed_for(Kernel* kernel) {
  return allowed.try_emplace(reinterpret_cast<void*>(kernel), 48 * 1024).first->second;
}

inline Shape shape_of(const cudaLaunchConfig_t& config) {
  return {config.gridDim.x, config.blockDim.x, config.dynamicSmemBytes};
}

inline cudaError_t check(const Shape& shape, size_t allowed) {
  if (shape.blocks == 0 || shape.blocks > static_cast<unsigned>(device.max_grid)) return cudaErrorInvalidConfiguration;
  if (shape.threads == 0 || shape.threads > 1024 || shape.threads % 32 != 0) return cudaErrorInvalidConfiguration;
  return shape.shared_bytes > allowed ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace cuda_shim

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline const char* cudaGetErrorString(cudaError_t error) {
  static std::string text;
  text = std::to_string(error);
  return text.c_str();
}

inline cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const auto& device = cuda_shim::device;
  switch (attribute) {
    case cudaDevAttrMaxGridDimX: *value = device.max_grid; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = device.shared_per_processor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = device.shared_per_block; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = device.reserved_shared; break;
    case cudaDevAttrL2CacheSize: *value = device.cache; break;
    case cudaDevAttrMultiProcessorCount: *value = device.processors; break;
  }
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  if (value > cuda_shim::device.shared_per_block) return cudaErrorInvalidValue;
  cuda_shim::allowed_for(kernel) = value;
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
  const auto shape = cuda_shim::shape_of(*config);
  if (const auto error = cuda_shim::check(shape, cuda_shim::allowed_for(kernel)); error != cudaSuccess) return error;
  cuda_shim::launches.push_back(shape);
  const bool sound = cuda_shim::run(shape, [=] { kernel(arguments...); });
  return sound && cuda_shim::failure.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}
