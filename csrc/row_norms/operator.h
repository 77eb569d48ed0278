// row_norms, as far as it is the same on every device.
#pragma once

#include "common/tensors.h"

namespace sgr {

// Every device has, for rows of at least one element:
//   run_row_norms(device, in, norms)  norms: (rows)
template <class Device>
Tensor row_norms(Tensor rows) {
  check_place<Device>(rows, rows, "rows");
  check_rows(rows, "rows");
  Device device(rows);
  if (rows.numel() == 0) return new_zeros(rows, {rows.size(0)}, ScalarType::Double);
  auto norms = new_empty(rows, {rows.size(0)}, ScalarType::Double);
  dispatch<Device>(rows, [&](auto type) {
    run_row_norms(device, row_set<decltype(type)>(rows), mutable_data<double>(norms));
  });
  return norms;
}

}  // namespace sgr
