// The operator that shifts rows along their residual, as far as it is the same on every device.
#pragma once

#include "common/residual_arguments.h"

namespace sgr {

// Every device has, for rows of at least one element:
//   run_sgr_shift(device, in, x, alpha, beta, factor, out)  alpha, beta: (rows). out: (rows, cols) contiguous
template <class Device>
struct SgrShift {
  static Tensor sgr_shift(Tensor x, Tensor delta, Tensor target, Tensor alpha, Tensor beta, double factor) {
    check_pair<Device>(delta, target);
    check_alike<Device>(x, delta, "x and delta");
    check_rows(x, "x");
    check_coefficients<Device>(delta, alpha, beta);
    const Device device(x);
    auto out = torch::stable::new_empty(x, {x.size(0), x.size(1)});
    if (x.numel() == 0) return out;
    dispatch<Device>(x, [&](auto type) {
      using T = decltype(type);
      run_sgr_shift(device, row_pair<T>(delta, target), rows_of<T>(x), data<double>(alpha), data<double>(beta), factor,
                    mutable_data<T>(out));
    });
    return out;
  }

  static void implement(Library& m) { m.impl("sgr_shift", TORCH_BOX(&sgr_shift)); }
};

}  // namespace sgr
