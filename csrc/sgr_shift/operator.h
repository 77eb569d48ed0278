// sgr_shift, as far as it is the same on every device, and what it shares with sgr_loss_backward.
#pragma once

#include "common/tensors.h"

namespace sgr {

// factor (alpha_b delta_b + beta_b target_b), to which a third matrix may be added. The factor is *scale if there is
// one. Every device has, for rows of at least one element:
//   run_combine(device, in, alpha, beta, factor, out)  alpha, beta: (rows). out: (rows, cols) contiguous
template <class Device, typename... X>
Tensor combine(const Tensor& delta, const Tensor& target, const Tensor& alpha, const Tensor& beta, double factor,
               const Tensor* scale, const X&... x) {
  check_row_pair<Device>(delta, target, "delta and target");
  check_per_row<Device>(alpha, delta, ScalarType::Double, "alpha");
  check_per_row<Device>(beta, delta, ScalarType::Double, "beta");
  Device device(delta);
  auto out = new_empty(delta, {delta.size(0), delta.size(1)});
  if (delta.numel() == 0) return out;
  dispatch<Device>(delta, [&](auto type) {
    using T = decltype(type);
    const Number<Wide<T>> number{factor, scale == nullptr ? nullptr : data<Wide<T>>(*scale)};
    run_combine(device, row_set<T>(delta, target, x...), data<double>(alpha), data<double>(beta), number,
                mutable_data<T>(out));
  });
  return out;
}

template <class Device>
Tensor sgr_shift(Tensor x, Tensor delta, Tensor target, Tensor alpha, Tensor beta, double factor) {
  check_row_pair<Device>(x, delta, "x and delta");
  return combine<Device>(delta, target, alpha, beta, factor, nullptr, x);
}

}  // namespace sgr
