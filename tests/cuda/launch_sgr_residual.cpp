// The launcher of sgr_residual behind a C interface, on the machine of shim/.
#include "launch_options.h"
#include "sgr_residual/kernel.cuh"

extern "C" {

// Shared memory for a row spread over `parts` blocks.
int64_t on_chip_bytes(const Matrix* in, int parts) {
  return dispatch(in->dtype, [&](auto type) { return spread_row<decltype(type)>(in->cols, parts).shared_bytes; });
}

int64_t workspace_doubles(const Matrix* in) { return Workspace::doubles(in->rows, in->cols); }

int sgr_residual(const Matrix* delta, const Matrix* target, const Settings* settings, double* workspace, void* loss,
                 void* v) {
  return dispatch(delta->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_sgr_residual(row_pair<T>(*delta, *target), options_of(*delta, *settings),
                               Workspace(workspace, delta->rows), static_cast<Wide<T>*>(loss),
                               static_cast<Wide<T>*>(v), nullptr);
  });
}

}  // extern "C"
