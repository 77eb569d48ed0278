// The launchers of the CUDA kernels behind a C interface, on the machine of shim/.
#include "sgr/cuda/combine.cuh"
#include "sgr/cuda/loss.cuh"
#include "sgr/cuda/residual.cuh"

using namespace sgr::cuda;

struct Input {
  int dtype;
  const void* delta;
  const void* target;
  int64_t rows, cols, delta_stride, target_stride;
};

struct Settings {
  int normalize, reduction;
  double floor, eps;
  const double* floor_tensor;
};

template <typename T>
static Rows<T> rows_of(const Input& in) {
  return {static_cast<const T*>(in.delta), static_cast<const T*>(in.target), in.rows, in.cols, in.delta_stride,
          in.target_stride};
}

static Options options_of(const Input& in, const Settings& settings) {
  const double scale = sgr::reduction_scale(settings.reduction, in.rows, in.cols);
  return {settings.normalize != 0, scale, settings.floor, settings.eps, settings.floor_tensor};
}

template <typename F>
static int dispatch(int dtype, const F& f) {
  switch (dtype) {
    case 0: return f(double{});
    case 1: return f(float{});
    case 2: return f(__nv_bfloat16{});
    default: return f(__half{});
  }
}

extern "C" {

void shim_set_device(const cuda_shim::Device* device) {
  cuda_shim::device = *device;
  cuda_shim::allowed.clear();
  cuda_shim::launches.clear();
  cuda_shim::failure.clear();
}

int shim_launches() { return static_cast<int>(cuda_shim::launches.size()); }

void shim_launch(int index, cuda_shim::Shape* shape) { *shape = cuda_shim::launches[index]; }

const char* shim_failure() { return cuda_shim::failure.c_str(); }

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
