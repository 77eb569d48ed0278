// What the registered CUDA operators share: dtype dispatch, the stream, checks.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>

#include <cstdint>

#include "../tensors.h"
#include "sgr/cuda/rows.cuh"

namespace sgr::cuda {

using torch::stable::accelerator::DeviceGuard;

// f(T{}) for the element type of a floating-point tensor.
template <typename F>
void dispatch(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double: return f(double{});
    case ScalarType::Float: return f(float{});
    case ScalarType::BFloat16: return f(__nv_bfloat16{});
    case ScalarType::Half: return f(__half{});
    default: STD_TORCH_CHECK(false, "expected float64, float32, bfloat16 or float16");
  }
}

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  const auto status = aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream);
  STD_TORCH_CHECK(status == AOTI_TORCH_SUCCESS, "no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

inline void check_on_device_of(const Tensor& tensor, const Tensor& other, const char* message) {
  STD_TORCH_CHECK(other.is_cuda() && other.get_device_index() == tensor.get_device_index(), message);
}

// Two tensors of one shape and dtype on one device.
inline void check_alike(const Tensor& a, const Tensor& b, const char* what) {
  check_same_shape(a, b, what);
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), what, " differ in dtype");
  STD_TORCH_CHECK(a.is_cuda() && b.is_cuda(), what, " must be CUDA tensors");
  STD_TORCH_CHECK(a.get_device_index() == b.get_device_index(), what, " are on different devices");
}

}  // namespace sgr::cuda
