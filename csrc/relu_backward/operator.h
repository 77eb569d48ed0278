// relu_backward, as far as it is the same on every device.
#pragma once

#include "common/tensors.h"

namespace sgr {

// Every device has, for tensors of at least one element:
//   run_relu_backward(device, grad, output, rows, channels, size, masked, sums)
// grad, output, masked: (rows, channels, size) contiguous. sums: (channels), or null if they are not wanted
template <class Device>
std::tuple<Tensor, Tensor> relu_backward(Tensor grad, Tensor output, bool sum_channels) {
  check_alike<Device>(grad, output, "grad and output");
  require(grad.dim() == 3 && grad.is_contiguous() && output.is_contiguous(),
          "grad and output must be contiguous (R, C, S)");
  const int64_t rows = grad.size(0), channels = grad.size(1), size = grad.size(2);
  const int64_t sum_count = sum_channels ? channels : 0;
  Device device(grad);
  auto masked = new_empty(grad, {rows, channels, size});
  if (grad.numel() == 0) return {masked, new_zeros(grad, {sum_count}, result_type(grad))};
  auto sums = new_empty(grad, {sum_count}, result_type(grad));
  dispatch<Device>(grad, [&](auto type) {
    using T = decltype(type);
    run_relu_backward(device, data<T>(grad), data<T>(output), rows, channels, size, mutable_data<T>(masked),
                      sum_channels ? mutable_data<Wide<T>>(sums) : nullptr);
  });
  return {masked, sums};
}

}  // namespace sgr
