// sgr_shift behind a C interface, on the machine of shim/.
#include "launch.h"
#include "sgr_shift/kernel.cuh"

extern "C" {

int sgr_shift(const Matrix* delta, const Matrix* target, const Matrix* x, const double* alpha, const double* beta,
              double factor, void* out) {
  return run(delta->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_combine(device, row_set<T>(*delta, *target, *x), alpha, beta, Number<Wide<T>>{factor, nullptr},
                static_cast<T*>(out));
  });
}

}  // extern "C"
