// What the registered CPU operators share: dtype dispatch, result types, checks.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <type_traits>

#include "sgr/cpu/half_types.h"

namespace sgr::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// f(T{}) for the element type of a floating-point tensor.
template <typename F>
void dispatch(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Double: return f(double{});
    case ScalarType::Float: return f(float{});
    case ScalarType::BFloat16: return f(BFloat16{});
    case ScalarType::Half: return f(Float16{});
    default: STD_TORCH_CHECK(false, "expected float64, float32, bfloat16 or float16");
  }
}

// Losses, residuals and sums are float64 for float64 and float32 for everything else.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType result_type(const Tensor& like) {
  return like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor scalar_result(const Tensor& like, double value) {
  auto result = torch::stable::new_empty(like, {}, result_type(like));
  if (result_type(like) == ScalarType::Double) {
    *static_cast<double*>(result.mutable_data_ptr()) = value;
  } else {
    *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(value);
  }
  return result;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Two tensors of one shape and dtype on the CPU.
inline void check_alike(const Tensor& a, const Tensor& b, const char* what) {
  STD_TORCH_CHECK(a.is_cpu() && b.is_cpu(), what, " must be CPU tensors");
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), what, " differ in dtype");
  STD_TORCH_CHECK(a.dim() == b.dim(), what, " differ in shape");
  for (int64_t i = 0; i < a.dim(); ++i) STD_TORCH_CHECK(a.size(i) == b.size(i), what, " differ in shape");
}

// Rows (B, n) with unit stride along a row.
inline void check_rows(const Tensor& rows, const char* what) {
  STD_TORCH_CHECK(rows.dim() == 2, what, ": expected rows (B, n)");
  STD_TORCH_CHECK(rows.size(1) <= 1 || rows.stride(1) == 1, what, ": rows need unit stride");
}

}  // namespace sgr::cpu
