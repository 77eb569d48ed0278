// The launchers of sgr_loss and sgr_loss_backward behind a C interface, on the machine of shim/.
#include "launch_options.h"
#include "sgr_loss/kernel.cuh"

extern "C" {

int64_t workspace_doubles(const Matrix* in) { return Workspace::doubles(in->rows, in->cols); }

int sgr_loss(const Matrix* delta, const Matrix* target, const Settings* settings, double* workspace, double* coef,
             void* loss) {
  return dispatch(delta->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_sgr_loss(row_pair<T>(*delta, *target), options_of(*delta, *settings),
                           Workspace(workspace, delta->rows), coef, static_cast<Wide<T>*>(loss), nullptr);
  });
}

int sgr_loss_backward(const Matrix* delta, const Matrix* target, const void* grad_loss, const double* alpha,
                      const double* beta, void* out) {
  return dispatch(delta->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_sgr_loss_backward(row_pair<T>(*delta, *target), alpha, beta, static_cast<const Wide<T>*>(grad_loss),
                                    static_cast<T*>(out), nullptr);
  });
}

}  // extern "C"
