// The launchers of the residual behind a C interface, on the machine of shim/.
#include "launch.h"

#include "sgr/cuda/combine.cuh"
#include "sgr/cuda/loss.cuh"
#include "sgr/cuda/residual.cuh"

struct Settings {
  int normalize, reduction;
  double floor, eps;
  const double* floor_tensor;
};

static Options options_of(const Input& in, const Settings& settings) {
  const double scale = sgr::reduction_scale(settings.reduction, in.rows, in.cols);
  return {settings.normalize != 0, scale, settings.floor, settings.eps, settings.floor_tensor};
}

extern "C" {

// Shared memory for a row spread over `parts` blocks.
int64_t on_chip_bytes(int dtype, int64_t cols, int parts) {
  return dispatch(dtype, [&](auto type) { return static_cast<int>(spread_row<decltype(type)>(cols, parts).shared_bytes); });
}

int64_t workspace_doubles(int64_t rows, int64_t cols) { return Workspace::doubles(rows, cols); }

int loss(const Input* in, const Settings* settings, double* workspace, double* coef, void* result) {
  return dispatch(in->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_loss(rows_of<T>(*in), options_of(*in, *settings), Workspace(workspace, in->rows), coef,
                       static_cast<Wide<T>*>(result), nullptr);
  });
}

int backward(const Input* in, const void* grad_loss, const double* alpha, const double* beta, void* out) {
  return dispatch(in->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_combine(rows_of<T>(*in), alpha, beta, static_cast<const Wide<T>*>(grad_loss), static_cast<T*>(out),
                          nullptr);
  });
}

int residual(const Input* in, const Settings* settings, double* workspace, void* result, void* v) {
  return dispatch(in->dtype, [&](auto type) {
    using T = decltype(type);
    return launch_residual(rows_of<T>(*in), options_of(*in, *settings), Workspace(workspace, in->rows),
                           static_cast<Wide<T>*>(result), static_cast<Wide<T>*>(v), nullptr);
  });
}

}  // extern "C"
