// The launcher of row_norms behind a C interface, on the machine of shim/.
#include "launch.h"
#include "row_norms/kernel.cuh"

extern "C" {

int64_t workspace_doubles(const Matrix* in) { return row_norms_doubles(in->rows, in->cols); }

int row_norms(const Matrix* in, double* memory, double* norms) {
  return dispatch(in->dtype, [&](auto type) {
    return launch_row_norms(rows_of<decltype(type)>(*in), memory, norms, nullptr);
  });
}

}  // extern "C"
