// The operators of recorded gates on CUDA.
#include "common/cuda.cuh"
#include "gate_bits/gate_bits.h"
#include "gate_bits/kernel.cuh"

namespace sgr::cuda {

template <typename T>
void run_record_relu(const Device& device, const T* x, int64_t n, double slope, T* y, uint8_t* bits) {
  STD_CUDA_CHECK(launch_record_relu(Gated<T>(x, y, n, slope), bits, device.stream()));
}

template <typename T>
void run_replay_relu(const Device& device, const T* x, const uint8_t* bits, int64_t n, double slope, T* y) {
  STD_CUDA_CHECK(launch_replay_relu(Gated<T>(x, y, n, slope), bits, device.stream()));
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { sgr::GateBits<sgr::cuda::Device>::implement(m); }
