// The operator for the Euclidean norms of rows, as far as it is the same on every device.
#pragma once

#include "common/tensors.h"

namespace sgr {

// Every device has, for rows of at least one element:
//   run_row_norms(device, in, norms)  norms: (rows)
template <class Device>
struct RowNorms {
  static Tensor row_norms(Tensor rows) {
    check_place<Device>(rows, rows, "rows");
    check_rows(rows, "rows");
    const Device device(rows);
    if (rows.numel() == 0) return torch::stable::new_zeros(rows, {rows.size(0)}, ScalarType::Double);
    auto norms = torch::stable::new_empty(rows, {rows.size(0)}, ScalarType::Double);
    dispatch<Device>(rows, [&](auto type) {
      run_row_norms(device, rows_of<decltype(type)>(rows), mutable_data<double>(norms));
    });
    return norms;
  }

  static void implement(Library& m) { m.impl("row_norms", TORCH_BOX(&row_norms)); }
};

}  // namespace sgr
