// sgr_loss, sgr_loss_backward and sgr_residual behind a C interface, on the machine of shim/.
#include "launch_options.h"
#include "sgr_residual/kernel.cuh"

extern "C" {

int sgr_loss(const Matrix* delta, const Matrix* target, const Settings* settings, double* coef, void* loss) {
  return run(delta->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_sgr_loss(device, row_set<T>(*delta, *target), options_of(*delta, *settings), coef,
                 static_cast<Wide<T>*>(loss));
  });
}

int sgr_loss_backward(const Matrix* delta, const Matrix* target, const void* grad_loss, const double* alpha,
                      const double* beta, void* out) {
  return run(delta->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_combine(device, row_set<T>(*delta, *target), alpha, beta,
                Number<Wide<T>>{1.0, static_cast<const Wide<T>*>(grad_loss)}, static_cast<T*>(out));
  });
}

// Shared memory for a row spread over `parts` blocks.
int64_t on_chip_bytes(const Matrix* in, int parts) {
  return dispatch(in->dtype, [&](auto type) { return spread_row<decltype(type)>(in->cols, parts).shared_bytes; });
}

int sgr_residual(const Matrix* delta, const Matrix* target, const Settings* settings, void* loss, void* v) {
  return run(delta->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_sgr_residual(device, row_set<T>(*delta, *target), options_of(*delta, *settings),
                     static_cast<Wide<T>*>(loss), static_cast<Wide<T>*>(v));
  });
}

}  // extern "C"
