// sgr_residual, as far as it is the same on every device.
#pragma once

#include "sgr_loss/operator.h"

namespace sgr {

// Every device has run_sgr_residual(device, in, options, loss, v) for rows of at least one element. loss: one number.
// v: (rows, cols) contiguous.
template <class Device>
std::tuple<Tensor, Tensor> sgr_residual(Tensor delta, Tensor target, bool normalize, int64_t reduction, double floor,
                                        std::optional<Tensor> floor_tensor, double eps) {
  check_row_pair<Device>(delta, target, "delta and target");
  Device device(delta);
  auto v = new_empty(delta, {delta.size(0), delta.size(1)}, result_type(delta));
  if (delta.numel() == 0) return {new_zeros(delta, {}, result_type(delta)), v};
  const auto options = make_options<Device>(delta, normalize, reduction, floor, floor_tensor, eps);
  auto loss = new_empty(delta, {}, result_type(delta));
  dispatch<Device>(delta, [&](auto type) {
    using T = decltype(type);
    run_sgr_residual(device, row_set<T>(delta, target), options, mutable_data<Wide<T>>(loss),
                     mutable_data<Wide<T>>(v));
  });
  return {loss, v};
}

}  // namespace sgr
