// The operator that gives loss and residual in one go, as far as it is the same on every device.
#pragma once

#include "common/residual_arguments.h"

namespace sgr {

// Every device has, for rows of at least one element:
//   run_sgr_residual(device, in, options, loss, v)  loss: one number. v: (rows, cols) contiguous
template <class Device>
struct SgrResidual {
  static std::tuple<Tensor, Tensor> sgr_residual(Tensor delta, Tensor target, bool normalize, int64_t reduction,
                                                 double floor, std::optional<Tensor> floor_tensor, double eps) {
    check_pair<Device>(delta, target);
    const Device device(delta);
    auto v = torch::stable::new_empty(delta, {delta.size(0), delta.size(1)}, result_type(delta));
    if (delta.numel() == 0) return {torch::stable::new_zeros(delta, {}, result_type(delta)), v};
    const auto options = make_options<Device>(delta, normalize, reduction, floor, floor_tensor, eps);
    auto loss = torch::stable::new_empty(delta, {}, result_type(delta));
    dispatch<Device>(delta, [&](auto type) {
      using T = decltype(type);
      run_sgr_residual(device, row_pair<T>(delta, target), options, mutable_data<Wide<T>>(loss),
                       mutable_data<Wide<T>>(v));
    });
    return {loss, v};
  }

  static void implement(Library& m) { m.impl("sgr_residual", TORCH_BOX(&sgr_residual)); }
};

}  // namespace sgr
