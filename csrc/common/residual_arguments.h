// The arguments that sgr_loss, sgr_residual and sgr_shift share: checks, and what kernels get of them.
#pragma once

#include "common/row_math.h"
#include "common/tensors.h"

namespace sgr {

template <class Device>
void check_pair(const Tensor& delta, const Tensor& target) {
  check_alike<Device>(delta, target, "delta and target");
  check_rows(delta, "delta");
  check_rows(target, "target");
}

template <typename T>
RowPair<T> row_pair(const Tensor& delta, const Tensor& target) {
  return {rows_of<T>(delta), rows_of<T>(target)};
}

template <class Device>
void check_coefficients(const Tensor& delta, const Tensor& alpha, const Tensor& beta) {
  for (const auto& coefficient : {alpha, beta}) {
    STD_TORCH_CHECK(coefficient.scalar_type() == ScalarType::Double && coefficient.is_contiguous() &&
                        coefficient.numel() == delta.size(0),
                    "alpha and beta must be contiguous float64 tensors, one number a row");
    check_place<Device>(coefficient, delta, "alpha and beta");
  }
}

// The raw arguments of the operators, checked and put together.
template <class Device>
Options make_options(const Tensor& delta, bool normalize, int64_t reduction, double floor,
                     const std::optional<Tensor>& floor_tensor, double eps) {
  const double* floor_pointer = nullptr;
  if (floor_tensor) {
    STD_TORCH_CHECK(floor_tensor->scalar_type() == ScalarType::Double && floor_tensor->dim() == 0,
                    "floor_tensor must be a 0-d float64 tensor");
    check_place<Device>(*floor_tensor, delta, "floor_tensor");
    floor_pointer = data<double>(*floor_tensor);
  }
  const double scale = reduction_scale(static_cast<int>(reduction), delta.size(0), delta.size(1));
  return {normalize, scale, floor, eps, floor_pointer};
}

}  // namespace sgr
