// row_dot and row_dot_backward, as far as they are the same on every device: checks, results, dispatch over dtypes.
#pragma once

#include "common/tensors.h"

namespace sgr {

// Every device has, for rows of at least one element:
//   run_row_dot(device, a, b, dots)                           dots: (rows)
//   run_row_dot_backward(device, grad, a, b, grad_a, grad_b)  grad: (rows); grad_a, grad_b: (rows, cols) contiguous
template <class Device>
Tensor row_dot(Tensor a, Tensor b) {
  check_alike<Device>(a, b, "a and b");
  check_rows(a, "a");
  check_rows(b, "b");
  const Device device(a);
  if (a.numel() == 0) return torch::stable::new_zeros(a, {a.size(0)}, result_type(a));
  auto dots = torch::stable::new_empty(a, {a.size(0)}, result_type(a));
  dispatch<Device>(a, [&](auto type) {
    using T = decltype(type);
    run_row_dot(device, rows_of<T>(a), rows_of<T>(b), mutable_data<Wide<T>>(dots));
  });
  return dots;
}

template <class Device>
std::tuple<Tensor, Tensor> row_dot_backward(Tensor grad, Tensor a, Tensor b) {
  check_alike<Device>(a, b, "a and b");
  check_rows(a, "a");
  check_rows(b, "b");
  check_place<Device>(grad, a, "grad");
  STD_TORCH_CHECK(grad.dim() == 1 && grad.size(0) == a.size(0) && grad.is_contiguous(), "grad: expected (B,)");
  STD_TORCH_CHECK(grad.scalar_type() == result_type(a), "grad: expected the dtype of the dots");
  const Device device(a);
  auto grad_a = torch::stable::new_empty(a, {a.size(0), a.size(1)});
  auto grad_b = torch::stable::new_empty(b, {b.size(0), b.size(1)});
  if (a.numel() == 0) return {grad_a, grad_b};
  dispatch<Device>(a, [&](auto type) {
    using T = decltype(type);
    run_row_dot_backward(device, data<Wide<T>>(grad), rows_of<T>(a), rows_of<T>(b), mutable_data<T>(grad_a),
                         mutable_data<T>(grad_b));
  });
  return {grad_a, grad_b};
}

}  // namespace sgr
