// A CUDA device as a Device of tensors.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <torch/csrc/stable/accelerator.h>

#include "common/tensors.h"

namespace sgr::cuda {

// While one lives, the current device is that of `like`.
class Device {
 public:
  using BFloat16 = __nv_bfloat16;
  using Float16 = __half;
  static constexpr const char* kName = "CUDA";
  static bool holds(const Tensor& tensor, const Tensor& like) {
    return tensor.is_cuda() && tensor.get_device_index() == like.get_device_index();
  }

  explicit Device(const Tensor& like) : like_(like), guard_(like.get_device_index()) {}

  cudaStream_t stream() const {
    void* stream = nullptr;
    const auto status = aoti_torch_get_current_cuda_stream(like_.get_device_index(), &stream);
    require(status == AOTI_TORCH_SUCCESS, "no current CUDA stream");
    return static_cast<cudaStream_t>(stream);
  }

  // Memory for the kernels of the stream. Torch's allocator takes it back in stream order: kernels that still run when
  // the device object goes have it to themselves.
  double* workspace(int64_t doubles) {
    memory_ = new_empty(like_, {doubles}, ScalarType::Double);
    return mutable_data<double>(memory_);
  }

 private:
  const Tensor& like_;
  torch::stable::accelerator::DeviceGuard guard_;
  Tensor memory_;
};

}  // namespace sgr::cuda
