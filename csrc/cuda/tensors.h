// What the registered CUDA operators share: dtype dispatch, result types, checks, the stream.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "sgr/cuda/rows.cuh"

namespace sgr::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
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

// Losses, residuals and sums, see Wide.
inline ScalarType result_type(const Tensor& like) {
  return like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

inline void check_on_device_of(const Tensor& tensor, const Tensor& other, const char* message) {
  STD_TORCH_CHECK(other.is_cuda() && other.get_device_index() == tensor.get_device_index(), message);
}

inline void check_same_shape(const Tensor& a, const Tensor& b, const char* what) {
  STD_TORCH_CHECK(a.dim() == b.dim(), what, " differ in shape");
  for (int64_t i = 0; i < a.dim(); ++i) STD_TORCH_CHECK(a.size(i) == b.size(i), what, " differ in shape");
}

// Two tensors of one shape and dtype on one device.
inline void check_alike(const Tensor& a, const Tensor& b, const char* what) {
  check_same_shape(a, b, what);
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), what, " differ in dtype");
  STD_TORCH_CHECK(a.is_cuda() && b.is_cuda(), what, " must be CUDA tensors");
  STD_TORCH_CHECK(a.get_device_index() == b.get_device_index(), what, " are on different devices");
}

// Rows (B, n) with unit stride along a row.
inline void check_rows(const Tensor& rows, const char* what) {
  STD_TORCH_CHECK(rows.dim() == 2, what, ": expected rows (B, n)");
  STD_TORCH_CHECK(rows.size(1) <= 1 || rows.stride(1) == 1, what, ": rows need unit stride");
}

}  // namespace sgr::cuda
