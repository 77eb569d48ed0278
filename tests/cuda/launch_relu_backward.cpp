// relu_backward behind a C interface, on the machine of shim/.
#include "launch.h"
#include "relu_backward/kernel.cuh"

struct Tensors {
  int dtype;
  const void* grad;
  const void* output;
  void* masked;
  int64_t rows, channels, size;
};

extern "C" {

// sums: null if they are not wanted.
int relu_backward(const Tensors* in, void* sums) {
  return run(in->dtype, [&](auto& device, auto type) {
    using T = decltype(type);
    run_relu_backward(device, static_cast<const T*>(in->grad), static_cast<const T*>(in->output), in->rows,
                      in->channels, in->size, static_cast<T*>(in->masked), static_cast<Wide<T>*>(sums));
  });
}

}  // extern "C"
