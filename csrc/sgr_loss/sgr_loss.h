// The operators of the loss, as far as they are the same on every device.
#pragma once

#include "common/residual_arguments.h"

namespace sgr {

// Every device has, for rows of at least one element:
//   run_sgr_loss(device, in, options, coef, loss)
//   run_sgr_loss_backward(device, in, alpha, beta, scale, out)
// coef: (3, rows). alpha, beta: (rows). loss, scale: one number. out: (rows, cols) contiguous
template <class Device>
struct SgrLoss {
  static std::tuple<Tensor, Tensor> sgr_loss(Tensor delta, Tensor target, bool normalize, int64_t reduction,
                                             double floor, std::optional<Tensor> floor_tensor, double eps) {
    check_pair<Device>(delta, target);
    const Device device(delta);
    if (delta.numel() == 0)
      return {torch::stable::new_zeros(delta, {}, result_type(delta)),
              torch::stable::new_zeros(delta, {3, delta.size(0)}, ScalarType::Double)};
    const auto options = make_options<Device>(delta, normalize, reduction, floor, floor_tensor, eps);
    auto loss = torch::stable::new_empty(delta, {}, result_type(delta));
    auto coef = torch::stable::new_empty(delta, {3, delta.size(0)}, ScalarType::Double);
    dispatch<Device>(delta, [&](auto type) {
      using T = decltype(type);
      run_sgr_loss(device, row_pair<T>(delta, target), options, mutable_data<double>(coef),
                   mutable_data<Wide<T>>(loss));
    });
    return {loss, coef};
  }

  static Tensor sgr_loss_backward(Tensor grad_loss, Tensor delta, Tensor target, Tensor alpha, Tensor beta) {
    check_pair<Device>(delta, target);
    STD_TORCH_CHECK(grad_loss.numel() == 1 && grad_loss.scalar_type() == result_type(delta),
                    "grad_loss must be a scalar of the dtype of the loss");
    check_place<Device>(grad_loss, delta, "grad_loss");
    check_coefficients<Device>(delta, alpha, beta);
    const Device device(delta);
    auto out = torch::stable::new_empty(delta, {delta.size(0), delta.size(1)});
    if (delta.numel() == 0) return out;
    dispatch<Device>(delta, [&](auto type) {
      using T = decltype(type);
      run_sgr_loss_backward(device, row_pair<T>(delta, target), data<double>(alpha), data<double>(beta),
                            data<Wide<T>>(grad_loss), mutable_data<T>(out));
    });
    return out;
  }

  static void implement(Library& m) {
    m.impl("sgr_loss", TORCH_BOX(&sgr_loss));
    m.impl("sgr_loss_backward", TORCH_BOX(&sgr_loss_backward));
  }
};

}  // namespace sgr
