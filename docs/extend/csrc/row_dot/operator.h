// row_dot and its derivative, as far as they are the same on every device.
#pragma once

#include "common/tensors.h"

namespace sgr {

template <class Device>
Tensor row_dot(Tensor a, Tensor b) {
  check_row_pair<Device>(a, b, "a and b");
  Device device(a);
  if (a.numel() == 0) return new_zeros(a, {a.size(0)}, result_type(a));
  auto out = new_empty(a, {a.size(0)}, result_type(a));
  dispatch<Device>(a, [&](auto type) {
    using T = decltype(type);
    run_row_dot(device, row_set<T>(a, b), mutable_data<Wide<T>>(out));
  });
  return out;
}

template <class Device>
std::tuple<Tensor, Tensor> row_dot_backward(Tensor grad, Tensor a, Tensor b) {
  check_row_pair<Device>(a, b, "a and b");
  check_per_row<Device>(grad, a, result_type(a), "grad");
  Device device(a);
  auto grad_a = new_empty(a, {a.size(0), a.size(1)});
  auto grad_b = new_empty(a, {a.size(0), a.size(1)});
  if (a.numel() == 0) return {grad_a, grad_b};
  dispatch<Device>(a, [&](auto type) {
    using T = decltype(type);
    run_row_dot_backward(device, row_set<T>(a, b), data<Wide<T>>(grad), mutable_data<T>(grad_a),
                         mutable_data<T>(grad_b));
  });
  return {grad_a, grad_b};
}

}  // namespace sgr
