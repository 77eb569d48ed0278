// The launcher of relu_backward behind a C interface, on the machine of shim/.
#include "launch.h"
#include "relu_backward/kernel.cuh"

struct Tensors {
  int dtype;
  const void* grad;
  const void* output;
  void* masked;
  int64_t rows, channels, size;
};

template <typename T>
static ReluTensors<T> tensors_of(const Tensors& in) {
  return {static_cast<const T*>(in.grad), static_cast<const T*>(in.output), static_cast<T*>(in.masked), in.rows,
          in.channels, in.size};
}

extern "C" {

int64_t workspace_doubles(const Tensors* in) {
  return dispatch(in->dtype, [&](auto type) {
    return plan_relu_backward(tensors_of<decltype(type)>(*in), true).doubles(in->channels);
  });
}

// Without sums, both they and partial are null.
int relu_backward(const Tensors* in, double* partial, void* sums) {
  return dispatch(in->dtype, [&](auto type) {
    using T = decltype(type);
    const auto tensors = tensors_of<T>(*in);
    return launch_relu_backward(tensors, plan_relu_backward(tensors, sums != nullptr), partial,
                                static_cast<Wide<T>*>(sums), nullptr);
  });
}

}  // extern "C"
