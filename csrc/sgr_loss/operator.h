// sgr_loss and sgr_loss_backward, as far as they are the same on every device.
#pragma once

#include "sgr_loss/row_math.h"
#include "sgr_shift/operator.h"

namespace sgr {

// The raw arguments of the operators, checked and put together.
template <class Device>
Options make_options(const Tensor& delta, bool normalize, int64_t reduction, double floor,
                     const std::optional<Tensor>& floor_tensor, double eps) {
  const double* floor_pointer = nullptr;
  if (floor_tensor) {
    require(floor_tensor->scalar_type() == ScalarType::Double && floor_tensor->dim() == 0,
            "floor_tensor must be a 0-d float64 tensor");
    check_place<Device>(*floor_tensor, delta, "floor_tensor");
    floor_pointer = data<double>(*floor_tensor);
  }
  const double scale = reduction_scale(static_cast<int>(reduction), delta.size(0), delta.size(1));
  return {normalize, scale, {floor, floor_pointer}, eps};
}

// Every device has run_sgr_loss(device, in, options, coef, loss) for rows of at least one element. loss: one number.
// coef: (kCoefRows, rows).
template <class Device>
std::tuple<Tensor, Tensor> sgr_loss(Tensor delta, Tensor target, bool normalize, int64_t reduction, double floor,
                                    std::optional<Tensor> floor_tensor, double eps) {
  check_row_pair<Device>(delta, target, "delta and target");
  Device device(delta);
  if (delta.numel() == 0)
    return {new_zeros(delta, {}, result_type(delta)), new_zeros(delta, {kCoefRows, delta.size(0)}, ScalarType::Double)};
  const auto options = make_options<Device>(delta, normalize, reduction, floor, floor_tensor, eps);
  auto loss = new_empty(delta, {}, result_type(delta));
  auto coef = new_empty(delta, {kCoefRows, delta.size(0)}, ScalarType::Double);
  dispatch<Device>(delta, [&](auto type) {
    using T = decltype(type);
    run_sgr_loss(device, row_set<T>(delta, target), options, mutable_data<double>(coef), mutable_data<Wide<T>>(loss));
  });
  return {loss, coef};
}

template <class Device>
Tensor sgr_loss_backward(Tensor grad_loss, Tensor delta, Tensor target, Tensor alpha, Tensor beta) {
  require(grad_loss.numel() == 1 && grad_loss.scalar_type() == result_type(delta),
          "grad_loss must be a scalar of the dtype of the loss");
  check_place<Device>(grad_loss, delta, "grad_loss");
  return combine<Device>(delta, target, alpha, beta, 1.0, &grad_loss);
}

}  // namespace sgr
