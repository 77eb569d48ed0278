// What the registered CPU operators share: dtype dispatch, scalar results, checks.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <type_traits>

#include "../tensors.h"
#include "sgr/cpu/half_types.h"

namespace sgr::cpu {

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

// The element type of losses, residuals and sums, see result_type.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline Tensor scalar_result(const Tensor& like, double value) {
  auto result = torch::stable::new_empty(like, {}, result_type(like));
  if (result_type(like) == ScalarType::Double) {
    *static_cast<double*>(result.mutable_data_ptr()) = value;
  } else {
    *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(value);
  }
  return result;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Two tensors of one shape and dtype on the CPU.
inline void check_alike(const Tensor& a, const Tensor& b, const char* what) {
  STD_TORCH_CHECK(a.is_cpu() && b.is_cpu(), what, " must be CPU tensors");
  STD_TORCH_CHECK(a.scalar_type() == b.scalar_type(), what, " differ in dtype");
  check_same_shape(a, b, what);
}

}  // namespace sgr::cpu
