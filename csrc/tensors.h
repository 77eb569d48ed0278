// What the registered operators of all devices share: result types, data pointers, checks.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace sgr {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Losses, residuals and sums are float64 for float64 and float32 for everything else.
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

inline void check_same_shape(const Tensor& a, const Tensor& b, const char* what) {
  STD_TORCH_CHECK(a.dim() == b.dim(), what, " differ in shape");
  for (int64_t i = 0; i < a.dim(); ++i) STD_TORCH_CHECK(a.size(i) == b.size(i), what, " differ in shape");
}

// Rows (B, n) with unit stride along a row.
inline void check_rows(const Tensor& rows, const char* what) {
  STD_TORCH_CHECK(rows.dim() == 2, what, ": expected rows (B, n)");
  STD_TORCH_CHECK(rows.size(1) <= 1 || rows.stride(1) == 1, what, ": rows need unit stride");
}

}  // namespace sgr
