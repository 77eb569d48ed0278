// The launcher of sgr_shift behind a C interface, on the machine of shim/.
#include "launch.h"
#include "sgr_shift/kernel.cuh"

extern "C" {

int sgr_shift(const Matrix* delta, const Matrix* target, const Matrix* x, const double* alpha, const double* beta,
              double factor, void* out) {
  return dispatch(delta->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_sgr_shift(row_pair<T>(*delta, *target), rows_of<T>(*x), alpha, beta, factor, static_cast<T*>(out),
                            nullptr);
  });
}

}  // extern "C"
