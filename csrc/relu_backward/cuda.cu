// relu_backward on CUDA.
#include "common/cuda.cuh"
#include "relu_backward/kernel.cuh"
#include "relu_backward/relu_backward.h"

namespace sgr::cuda {

template <typename T>
void run_relu_backward(const Device& device, const T* grad, const T* output, int64_t rows, int64_t channels,
                       int64_t size, T* masked, Wide<T>* sums) {
  const ReluTensors<T> in{grad, output, masked, rows, channels, size};
  const ReluPlan plan = plan_relu_backward(in, sums != nullptr);
  const auto memory = device.workspace(sums != nullptr ? plan.doubles(channels) : 0);
  STD_CUDA_CHECK(launch_relu_backward(in, plan, mutable_data<double>(memory), sums, device.stream()));
}

}  // namespace sgr::cuda

STABLE_TORCH_LIBRARY_IMPL(sgr, CUDA, m) { sgr::ReluBackward<sgr::cuda::Device>::implement(m); }
