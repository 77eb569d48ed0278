// sgr_step_length, as far as it is the same on every device.
#pragma once

#include "row_norms/operator.h"
#include "sgr_step_length/law.h"

namespace sgr {

// The norms of so many rows, in double.
template <class Device>
Tensor norms_of(const Tensor& tensor, const Tensor& coef, int64_t rows, const char* what) {
  check_place<Device>(tensor, coef, what);
  check_rows(tensor, what);
  require(tensor.size(0) == rows, what, ": wrong number of rows");
  return row_norms<Device>(tensor);
}

// Every device has run_row_norms, and run_sgr_step_length(device, in, loss, law, inverse, step) for at least one row.
// loss, inverse: one number. step: (2, rows).
template <class Device>
std::tuple<Tensor, Tensor> sgr_step_length(Tensor loss, Tensor coef, Tensor x, Tensor delta,
                                           std::optional<Tensor> output, std::optional<Tensor> delta_output,
                                           double size_ratio, double typical, double longest, double gain_power,
                                           double most) {
  require(coef.dim() == 2 && coef.size(0) == 4 && coef.is_contiguous(), "coef: expected a contiguous tensor (4, B)");
  require(coef.scalar_type() == ScalarType::Double, "coef must be float64");
  require(loss.numel() == 1, "loss must be a scalar");
  check_place<Device>(loss, loss, "loss");
  check_place<Device>(coef, loss, "coef");
  require(output.has_value() == delta_output.has_value(), "output and delta_output must both be there, or neither");
  const int64_t rows = coef.size(1), outputs = output ? output->size(0) : 0;
  const Tensor none;
  const Tensor of_x = norms_of<Device>(x, coef, rows, "x");
  const Tensor of_delta = norms_of<Device>(delta, coef, rows, "delta");
  const Tensor of_output = output ? norms_of<Device>(*output, coef, outputs, "output") : none;
  const Tensor of_gradient = output ? norms_of<Device>(*delta_output, coef, outputs, "delta_output") : none;
  const StepRows in{data<double>(coef),
                    data<double>(of_x),
                    data<double>(of_delta),
                    output ? data<double>(of_output) : nullptr,
                    output ? data<double>(of_gradient) : nullptr,
                    rows,
                    outputs};
  Device device(coef);
  if (rows == 0) return {new_zeros(coef, {}), new_zeros(coef, {2, 0})};
  auto inverse = new_empty(coef, {});
  auto step = new_empty(coef, {2, rows});
  dispatch<Device>(loss, [&](auto type) {
    run_sgr_step_length(device, in, data<decltype(type)>(loss), {size_ratio, typical, longest, gain_power, most},
                        mutable_data<double>(inverse), mutable_data<double>(step));
  });
  return {inverse, step};
}

}  // namespace sgr
