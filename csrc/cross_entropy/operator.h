// cross_entropy and cross_entropy_hvp, as far as they are the same on every device.
#pragma once

#include <cmath>

#include "common/tensors.h"

namespace sgr {

template <class Device>
void check_logits(const Tensor& logits, const Tensor& labels) {
  check_rows(logits, "logits");
  check_place<Device>(logits, logits, "logits");
  check_per_row<Device>(labels, logits, ScalarType::Long, "labels");
}

// Every device has, the last two for logits of at least one element:
//   check_labels(device, labels, rows, classes)                 an error if one is out of range, if it can look at them
//   run_cross_entropy(device, logits, labels, loss, gradient)   loss: one number. gradient: (rows, cols) contiguous
//   run_cross_entropy_hvp(device, logits, labels, tangent, out) out: (rows, cols) contiguous
// labels: (rows)
template <class Device>
std::tuple<Tensor, Tensor> cross_entropy(Tensor logits, Tensor labels) {
  check_logits<Device>(logits, labels);
  Device device(logits);
  check_labels(device, data<int64_t>(labels), logits.size(0), logits.size(1));
  auto loss = new_empty(logits, {}, result_type(logits));
  auto gradient = new_empty(logits, {logits.size(0), logits.size(1)}, result_type(logits));
  if (logits.numel() == 0) return {torch::stable::fill_(loss, NAN), gradient};  // the mean of nothing
  dispatch<Device>(logits, [&](auto type) {
    using T = decltype(type);
    run_cross_entropy(device, rows_of<T>(logits), data<int64_t>(labels), mutable_data<Wide<T>>(loss),
                      mutable_data<Wide<T>>(gradient));
  });
  return {loss, gradient};
}

template <class Device>
Tensor cross_entropy_hvp(Tensor logits, Tensor labels, Tensor tangent) {
  check_logits<Device>(logits, labels);
  check_same_shape(logits, tangent, "logits and tangent");
  check_rows(tangent, "tangent");
  require(tangent.scalar_type() == result_type(logits), "tangent must have the dtype of the gradient");
  check_place<Device>(tangent, logits, "tangent");
  Device device(logits);
  check_labels(device, data<int64_t>(labels), logits.size(0), logits.size(1));
  auto out = new_empty(logits, {logits.size(0), logits.size(1)}, result_type(logits));
  if (logits.numel() == 0) return out;
  dispatch<Device>(logits, [&](auto type) {
    using T = decltype(type);
    run_cross_entropy_hvp(device, rows_of<T>(logits), data<int64_t>(labels), rows_of<Wide<T>>(tangent),
                          mutable_data<Wide<T>>(out));
  });
  return out;
}

}  // namespace sgr
